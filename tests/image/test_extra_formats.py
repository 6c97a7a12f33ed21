"""HEIC and JPEG XL, where their packages are installed; the message where they are not."""

import contextlib
import io

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageCms
from support.images import smooth

from varfix.engine import formats
from varfix.engine.errors import (
    DecodeTruncatedError,
    DecodeUnsupportedError,
    EncodeError,
    PlanError,
)
from varfix.engine.formats import FORMATS, Header, check_output, sniff
from varfix.engine.image.decoded_image import to_integers
from varfix.engine.image.header import probe
from varfix.engine.image.reader import decode_image
from varfix.engine.image.writer import encode_image
from varfix.engine.settings.types import OutputSettings

KEEP = OutputSettings()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
EXTRAS = ("heif", "jxl")


@pytest.fixture(params=EXTRAS)
def extra(request):
    pytest.importorskip(FORMATS[request.param].module)
    return request.param


@pytest.fixture
def jxl():
    pytest.importorskip("pillow_jxl")


@pytest.fixture
def heif():
    return pytest.importorskip("pillow_heif")


@pytest.fixture
def missing(monkeypatch):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)


def test_an_image_larger_than_in_its_header_is_rejected(heif):
    """Found by the fuzzer: the crop of a damaged file is not applied, which nothing reports."""
    out = io.BytesIO()
    heif.from_pillow(Image.fromarray(noise()).convert("RGBA")).save(out, quality=90)
    data = out.getvalue()
    at = data.index(b"clap") + 28  # the numerator of the vertical offset
    damaged = data[:at] + b"\xff\x00" + data[at + 2 :]
    decode_image(data, max_pixels=10**6)
    with pytest.raises(DecodeTruncatedError, match="its header states 22 x 13 px"):
        decode_image(damaged, max_pixels=10**6)


def noise(channels=3, seed=0):
    shape = (13, 22, channels) if channels > 1 else (13, 22)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array, **params):
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG", **params)
    return out.getvalue()


def jpeg(**params):
    out = io.BytesIO()
    Image.fromarray(smooth()).save(out, "JPEG", **params)
    return out.getvalue()


def read(data):
    return decode_image(data, max_pixels=10**7)


def samples(image):
    return to_integers(image.pixels, depth=8, gray=image.info.mode == "gray").squeeze()


def exif(orientation=6):
    block = Image.Exif()
    block[0x010F], block[0x0112] = "Maker", orientation
    block.get_ifd(0x8769)[0x9003] = "2026:01:02 03:04:05"
    return block.tobytes()


def tags(block):
    found = Image.Exif()
    found.load(b"Exif\x00\x00" + block)
    return found


@pytest.mark.usefixtures("jxl")
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_jpeg_xl_comes_back_exactly(channels):
    array = noise(channels)
    if channels in (2, 4):
        array[:4, :, -1] = 0
    data = encode_image(read(png(array)), "jxl", KEEP)
    again = encode_image(read(data.data), "keep", KEEP)
    image = read(again.data)
    assert (image.info.format, data.warnings, again.warnings) == ("jxl", (), ())
    back = np.asarray(Image.open(io.BytesIO(encode_image(image, "png", KEEP).data)))
    assert np.array_equal(back, array)


@pytest.mark.usefixtures("jxl")
def test_jpeg_xl_below_quality_100_is_smaller_and_close():
    image = read(png(np.tile(smooth(), (4, 4, 1))))
    sizes = [len(encode_image(image, "jxl", OutputSettings(jxl_quality=q)).data) for q in (40, 90)]
    assert sizes[0] < sizes[1]
    lossy = encode_image(image, "jxl", OutputSettings(jxl_quality=90)).data
    assert np.abs(read(lossy).pixels - image.pixels).mean() < 0.02


@pytest.mark.usefixtures("heif")
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_heic_stays_close_and_keeps_alpha(channels):
    array = smooth()[..., 0] if channels == 1 else smooth()
    if channels == 4:
        array = np.dstack([array, smooth()[..., 0]])
    data = encode_image(read(png(array)), "heic", OutputSettings(heic_quality=95)).data
    image = read(encode_image(read(data), "keep", OutputSettings(heic_quality=95)).data)
    assert image.info.format == "heif"
    expected = array[..., :3] if channels == 4 else array
    assert np.abs(samples(image).astype(int) - (smooth() if channels > 1 else expected)).mean() < 3
    if channels == 4:
        assert np.abs(image.alpha.astype(int) - array[..., 3]).mean() < 2


def test_metadata_survives_there_and_back(extra):
    source = jpeg(exif=exif(), xmp=XMP, icc_profile=SRGB)
    there = encode_image(read(source), extra, KEEP)
    assert there.warnings == ()
    info = read(there.data).info
    assert info.warnings == ()
    if extra == "jxl":  # its standard puts an offset before the block
        assert b"Exif" + bytes(4) in there.data
    found = tags(info.exif)
    assert found[0x010F] == "Maker"
    assert found.get(0x0112, 1) == 1
    assert found.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"
    assert info.xmp == XMP.replace(b'"6"', b'"1"')
    assert probe(there.data) == Header(extra, 48, 64, False, 8)
    back = read(encode_image(read(there.data), "jpeg", KEEP).data).info
    assert (back.exif, back.xmp) == (info.exif, info.xmp)
    if extra == "heif":
        assert info.icc == SRGB


@pytest.mark.parametrize("policy", ["safe", "none"])
def test_policies(extra, policy):
    source = jpeg(exif=exif(1), xmp=XMP, icc_profile=SRGB)
    options = OutputSettings(metadata=policy)
    info = read(encode_image(read(source), extra, options).data).info
    assert (info.exif, info.xmp) == (None, None)
    if extra == "heif":
        assert info.icc == (SRGB if policy == "safe" else None)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_upright(extra, orientation):
    upright = read(jpeg(exif=exif(orientation)))
    data = encode_image(upright, extra, OutputSettings(heic_quality=100)).data
    header = probe(data)
    assert (header.height, header.width) == upright.pixels.shape[:2]
    assert np.abs(read(data).pixels - upright.pixels).mean() < 0.02


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_heic_turned_by_its_container_is_turned_once(heif, orientation):
    out = io.BytesIO()
    heif.from_pillow(Image.fromarray(smooth())).save(out, quality=100, exif=exif(orientation))
    turned = read(jpeg(exif=exif(orientation), quality=100))
    assert probe(out.getvalue()).width == turned.pixels.shape[1]
    assert np.abs(read(out.getvalue()).pixels - turned.pixels).mean() < 0.03


@pytest.mark.usefixtures("jxl")
def test_a_jpeg_kept_inside_jpeg_xl_is_read_and_turned(tmp_path):
    import pillow_jxl.JpegXLImagePlugin  # noqa: F401

    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(exif=exif(6)))
    out = io.BytesIO()
    with Image.open(path) as opened:
        opened.save(out, "JXL", lossless_jpeg=True)
    image = read(out.getvalue())
    assert np.abs(image.pixels - read(path.read_bytes()).pixels).mean() < 0.01
    assert tags(image.info.exif)[0x010F] == "Maker"


@pytest.mark.usefixtures("jxl")
def test_compressed_metadata_of_jpeg_xl_is_a_warning():
    import pillow_jxl.JpegXLImagePlugin  # noqa: F401

    out = io.BytesIO()
    params = {"exif": exif(1), "use_container": True, "compress_metadata": True}
    Image.fromarray(smooth()).save(out, "JXL", **params)
    assert read(out.getvalue()).info.warnings == ("compressed metadata of a JPEG XL is not kept",)


@pytest.mark.parametrize("part", [0.05, 0.3, 0.6, 0.95])
def test_truncated_files_are_refused(extra, part):
    data = encode_image(read(png(noise())), extra, KEEP).data
    with pytest.raises(DecodeTruncatedError):
        read(data[: max(16, int(len(data) * part))])


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_are_errors_or_images(extra, seed):
    data = bytearray(encode_image(read(png(noise())), extra, KEEP).data)
    rng = np.random.default_rng(seed)
    for at in rng.integers(12, len(data), 4):
        data[at] ^= 1 << int(rng.integers(8))
    for call in (read, probe):
        with contextlib.suppress(DecodeTruncatedError, DecodeUnsupportedError):
            call(bytes(data))


def test_large_images_are_refused_from_the_header(extra):
    data = encode_image(read(png(noise())), extra, KEEP).data
    with pytest.raises(DecodeUnsupportedError, match="megapixels"):
        decode_image(data, max_pixels=13 * 22 - 1)


@pytest.mark.usefixtures("jxl")
def test_the_smallest_jpeg_xl_bomb_is_refused_before_it_is_decoded():
    # Signature, then height 2^30 - 1 in its longest form and the same width, all else by default.
    bits = "0" + "11" + "1" * 30 + "100" + "1"
    code = int(bits[::-1], 2).to_bytes(8, "little")
    with pytest.raises(DecodeUnsupportedError, match="over the limit"):
        read(b"\xff\x0a" + code)


# 8 x 8, then not all by default.
JXL_HEAD = "1" + "00000" + "100" + "0"


@pytest.mark.usefixtures("jxl")
@pytest.mark.parametrize(
    "bits, what",
    [
        ("1" + "000" + "0" + "0" + "1", "animation"),
        ("0" + "0" + "11" + "111100", "8 bits"),
        ("0" + "1" + "00" + "0001", "8 bits"),
        # One extra channel of 8 bits, its kind 1: black.
        ("0" + "0" + "00" + "0" + "10" + "0" + "10" + "0" + "00" + "00" + "00", "CMYK"),
    ],
)
def test_jpeg_xl_of_other_kinds_is_refused_with_a_hint(bits, what):
    code = int((JXL_HEAD + bits)[::-1], 2).to_bytes(12, "little")
    for call in (read, probe):
        with pytest.raises(DecodeUnsupportedError, match=what) as caught:
            call(b"\xff\x0a" + code)
        assert "PNG" in caught.value.hint


@pytest.mark.usefixtures("heif")
def test_a_deep_heic_is_a_warning(heif):
    out = io.BytesIO()
    deep = np.dstack([smooth().astype(np.uint16) * 257])
    image = heif.from_bytes("RGB;16", (64, 48), deep.tobytes())
    image.save(out, quality=95)
    assert any("10-bit HEIC" in w for w in read(out.getvalue()).info.warnings)


@pytest.mark.parametrize("kind", [b"mpvd", b"moov"])
def test_the_video_of_a_heic_motion_photo_is_a_warning(heif, kind):
    out = io.BytesIO()
    heif.from_pillow(Image.fromarray(smooth())).save(out, quality=90)
    assert read(out.getvalue()).info.warnings == ()
    out.write((16).to_bytes(4, "big") + kind + bytes(8))
    (text,) = read(out.getvalue()).info.warnings
    assert text == "the video of a motion photo is not kept: it is appended to the image"


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.usefixtures("missing")
def test_a_format_that_is_not_installed_is_refused_with_the_command_that_installs_it(name):
    heads = {"heif": b"\x00\x00\x00\x18ftypheic" + bytes(12), "jxl": b"\xff\x0a" + bytes(20)}
    remedy = f'pip install "varfix[{name}]"'
    assert sniff(heads[name]) == name
    for call in (read, probe):
        with pytest.raises(DecodeUnsupportedError, match="cannot be read here") as caught:
            call(heads[name])
        assert remedy in caught.value.hint
    with pytest.raises(PlanError) as planned:
        check_output("a.png", Header("png", 5, 5, False, 8), name, None)
    assert remedy in planned.value.hint
    with pytest.raises(EncodeError) as written:
        encode_image(read(png(noise())), name, KEEP)
    assert remedy in written.value.hint


@pytest.mark.usefixtures("missing")
def test_the_command_line_offers_only_what_is_installed():
    import click

    from varfix.cli.options import FormatChoice

    @click.command()
    @click.option("-f", "form", type=FormatChoice())
    def command(form):
        click.echo(form)

    refused = CliRunner().invoke(command, ["-f", "heic"])
    assert refused.exit_code == 2
    assert 'pip install "varfix[heif]"' in refused.output
    assert "jxl" not in CliRunner().invoke(command, ["--help"]).output
    assert CliRunner().invoke(command, ["-f", "PNG"]).output == "png\n"


def test_the_command_line_offers_what_is_installed(extra):
    from varfix.cli.options import FormatChoice

    assert {"heif": "heic", "jxl": "jxl"}[extra] in FormatChoice().choices


def test_an_image_box_of_a_general_brand_has_the_type_in_its_header():
    assert sniff(b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1avifmiaf") == "avif"
    assert sniff(b"\x00\x00\x00\x1cftypmif1\x00\x00\x00\x00mif1heicmiaf") == "heif"
