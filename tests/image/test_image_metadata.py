"""What a file says of itself survives restoration, made true for the upright image."""

import io
import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin
from support.images import opened, saved, smooth

from varfix.engine.image import encoders
from varfix.engine.image.decoded_image import DecodedImage, to_floats, to_integers
from varfix.engine.image.metadata.iptc import record_of, resources
from varfix.engine.image.metadata.resolution import Resolution
from varfix.engine.image.reader import decode_image
from varfix.engine.image.writer import encode_image, encode_image_bytes
from varfix.engine.settings.types import OutputSettings

KEEP = OutputSettings()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" a="b"/></x:xmpmeta>'
)


def noise(channels=3, dtype=np.uint8, seed=0):
    shape = (13, 22, channels) if channels > 1 else (13, 22)
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def read(data):
    return decode_image(data, max_pixels=500_000_000)


def round_trip(data, fmt="keep", options=KEEP):
    return encode_image_bytes(read(data), fmt, options)


def camera_exif(orientation=6):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0112] = orientation
    exif[0x0132] = "2026:01:02 03:04:05"
    inner = exif.get_ifd(0x8769)
    inner[0x9003] = "2026:01:02 03:04:05"
    inner[0xA002], inner[0xA003] = 64, 48
    inner[0x927C] = b"maker note"
    inner[0x829D] = TiffImagePlugin.IFDRational(28, 10)
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (10.0, 20.0, 30.0)
    return exif.tobytes()


def second_directory(block):
    """Return the byte order and the place of the link to the second directory."""
    order = "<" if block[:2] == b"II" else ">"
    first = struct.unpack_from(f"{order}I", block, 4)[0]
    return order, first + 2 + 12 * struct.unpack_from(f"{order}H", block, first)[0]


def with_thumbnail(exif):
    """Link a second directory with an embedded JPEG behind an EXIF block, as cameras do."""
    block = bytearray(exif.removeprefix(b"Exif\x00\x00"))
    order, link = second_directory(block)
    struct.pack_into(f"{order}I", block, link, len(block))
    thumbnail = saved(Image.fromarray(smooth()), "JPEG")
    at = len(block) + 2 + 24 + 4
    entries = struct.pack(f"{order}HHHIIHHII", 2, 0x201, 4, 1, at, 0x202, 4, 1, len(thumbnail))
    return bytes(block) + entries + bytes(4) + thumbnail


@pytest.mark.parametrize("target", ["jpeg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_metadata_survives_between_all_formats(source, target):
    image = Image.fromarray(smooth())
    params = {"exif": camera_exif(), "icc_profile": SRGB}
    if source in ("JPEG", "WEBP", "AVIF"):
        params["xmp"] = XMP
    encoded = encode_image(read(saved(image, source, **params)), target, KEEP)
    assert encoded.warnings == ()
    result = opened(encoded.data)
    exif = result.getexif()
    inner = exif.get_ifd(0x8769)
    assert result.size == (48, 64)
    assert result.info["icc_profile"] == SRGB
    assert exif[0x010F] == "Maker"
    assert exif.get(0x0112, 1) == 1
    assert inner[0x9003] == "2026:01:02 03:04:05"
    assert inner[0x927C] == b"maker note"
    assert float(inner[0x829D]) == 2.8
    assert (inner[0xA002], inner[0xA003]) == (48, 64)
    assert exif.get_ifd(0x8825)[1] == "N"
    assert tuple(map(float, exif.get_ifd(0x8825)[2])) == (10.0, 20.0, 30.0)
    if "xmp" in params:
        assert result.info["xmp"] == XMP.replace(b'Orientation="6"', b'Orientation="1"')


@pytest.mark.parametrize("channels, dtype", [(3, np.uint16), (1, np.uint8), (4, np.uint8)])
def test_tiff_of_any_depth_keeps_metadata(channels, dtype):
    image = read(saved(Image.fromarray(noise()), "PNG", exif=camera_exif(1), icc_profile=SRGB))
    samples = np.atleast_3d(noise(channels, dtype))
    info = replace(
        image.info,
        depth=np.iinfo(dtype).bits,
        mode="gray" if channels == 1 else "rgb",
        xmp=XMP,
        resolution=Resolution(300.0, 150.0, "inch"),
    )
    alpha = samples[..., 3] | 1 if channels == 4 else None
    data = encode_image_bytes(DecodedImage(to_floats(samples[..., :3]), alpha, info), "tiff", KEEP)
    again = read(data)
    assert again.info.icc == SRGB
    assert again.info.resolution == Resolution(300.0, 150.0, "inch")
    assert opened(data).getexif().get_ifd(0x8769)[0x927C] == b"maker note"
    assert np.array_equal(
        to_integers(again.pixels, depth=info.depth, gray=channels == 1), samples[..., :3]
    )


def test_the_stale_thumbnail_is_gone_with_its_bytes():
    block = with_thumbnail(camera_exif())
    data = saved(Image.fromarray(smooth()), "JPEG", exif=b"Exif\x00\x00" + block)
    assert struct.unpack_from(">I", block, second_directory(block)[1])[0] > 0
    result = opened(round_trip(data))
    kept = result.info["exif"].removeprefix(b"Exif\x00\x00")
    assert struct.unpack_from(">I", kept, second_directory(kept)[1])[0] == 0
    assert b"\xff\xd8\xff" not in kept
    assert len(kept) < len(block)
    assert result.getexif().get_ifd(0x8769)[0x927C] == b"maker note"


def test_resolution_follows_the_turn():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(smooth()), "JPEG", exif=exif, dpi=(300, 150))
    for fmt in ("jpeg", "png", "tiff", "bmp"):
        assert opened(round_trip(data, fmt)).info["dpi"] == pytest.approx((150, 300), abs=0.1)


def test_png_text_and_gamma_survive():
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "hello")
    text.add_itxt("Title", "Grüße", lang="de")
    text.add(b"gAMA", struct.pack(">I", 45455))
    data = saved(Image.fromarray(noise()), "PNG", pnginfo=text, dpi=(300, 300))
    result = opened(round_trip(data))
    assert result.text == {"Comment": "hello", "Title": "Grüße"}
    assert result.info["gamma"] == pytest.approx(0.45455)
    assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("fmt", ["jpeg", "png", "webp", "tiff", "avif"])
def test_metadata_policies(fmt):
    source = saved(
        Image.fromarray(smooth()), "JPEG", exif=camera_exif(1), icc_profile=SRGB, xmp=XMP
    )
    safe = opened(round_trip(source, fmt, OutputSettings(metadata="safe")))
    none = opened(round_trip(source, fmt, OutputSettings(metadata="none")))
    assert safe.info["icc_profile"] == SRGB
    assert "icc_profile" not in none.info
    for result in (safe, none):
        assert "xmp" not in result.info
        assert 0x010F not in result.getexif()


RECORD = b"\x1c\x02\x00\x00\x02\x00\x04" + b"\x1c\x02\x78\x00\x05hello" + b"\x1c\x02\x19\x00\x03abc"


def with_resources():
    """Write a JPEG as Photoshop does: the record between other resources."""
    other = b"8BIM" + struct.pack(">H", 0x0BB7) + b"\x03abc" + struct.pack(">I", 3) + b"xyz\x00"
    record = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(RECORD)) + RECORD
    payload = b"Photoshop 3.0\x00" + other + record + bytes(len(RECORD) % 2) + other
    data = saved(Image.fromarray(smooth()), "JPEG", exif=camera_exif(1), icc_profile=SRGB)
    return data[:2] + b"\xff\xed" + struct.pack(">H", len(payload) + 2) + payload + data[2:]


def iptc_in(data):
    """Find the record as another program would."""
    image = opened(data)
    if image.format == "TIFF":
        return image.tag_v2.get(33723)
    return image.info.get("photoshop", {}).get(0x0404)


@pytest.mark.parametrize("target", ["jpeg", "tiff"])
@pytest.mark.parametrize("source", ["jpeg", "tiff"])
def test_iptc_survives_between_jpeg_and_tiff(source, target):
    data = with_resources()
    assert iptc_in(data) == RECORD
    first = encode_image(read(data), source, KEEP)
    second = encode_image(read(first.data), target, KEEP)
    assert iptc_in(first.data) == iptc_in(second.data) == RECORD
    assert second.data[:4] != b"\xff\xd8\xff\xed"  # some readers want JFIF or EXIF first
    assert first.warnings == second.warnings == ()
    assert opened(second.data).getexif()[0x010F] == "Maker"
    assert opened(second.data).info["icc_profile"] == SRGB


@pytest.mark.parametrize("order", ["<", ">"])
def test_iptc_declared_as_numbers_is_read(order):
    record = RECORD + bytes(-len(RECORD) % 4)
    out = io.BytesIO()
    words = struct.unpack(f"{order}{len(record) // 4}I", record)
    tags = [(33723, 4, len(words), words, True)]
    tifffile.imwrite(out, noise(), photometric="rgb", byteorder=order, extratags=tags)
    assert read(out.getvalue()).info.iptc == record


def test_iptc_in_a_tiff_of_photoshop_is_read():
    block = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(RECORD)) + RECORD
    out = io.BytesIO()
    tags = [(34377, 1, len(block), block, True)]
    tifffile.imwrite(out, noise(), photometric="rgb", extratags=tags)
    assert read(out.getvalue()).info.iptc == RECORD


@pytest.mark.parametrize("policy", ["safe", "none"])
@pytest.mark.parametrize("target", ["jpeg", "tiff"])
def test_iptc_goes_with_the_rest(target, policy):
    encoded = encode_image(read(with_resources()), target, OutputSettings(metadata=policy))
    assert iptc_in(encoded.data) is None
    assert encoded.warnings == ()


@pytest.mark.parametrize("target", ["png", "webp", "avif", "bmp"])
def test_iptc_that_a_format_cannot_hold_is_a_warning(target):
    warnings = encode_image(read(with_resources()), target, KEEP).warnings
    assert any("IPTC" in text for text in warnings)


def test_iptc_larger_than_a_segment_is_split():
    record = bytes(range(256)) * 300
    image = read(with_resources())
    image = replace(image, info=replace(image.info, resources=resources(record)))
    encoded = encode_image(image, "jpeg", KEEP)
    assert encoded.warnings == ()
    assert read(encoded.data).info.iptc == record


@given(st.binary(max_size=80))
def test_damaged_resources_hold_no_record(junk):
    assert record_of(b"8BIM\x04\x04" + junk) is None or len(junk) > 6


def test_metadata_that_does_not_fit_is_a_warning_and_the_profile_stays():
    image = read(saved(Image.fromarray(smooth()), "PNG", icc_profile=SRGB))
    image = replace(image, info=replace(image.info, xmp=b"x" * 70_000))
    encoded = encode_image(image, "jpeg", KEEP)
    assert [w.partition(":")[0] for w in encoded.warnings] == ["metadata was not kept"]
    assert opened(encoded.data).info["icc_profile"] == SRGB


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's own complaint
def test_damaged_exif_is_a_warning():
    exif = b"Exif\x00\x00II*\x00\xff\xff\x00\x00"
    image = read(saved(Image.fromarray(smooth()), "JPEG", exif=exif))
    assert image.info.exif is None
    assert "EXIF" in image.info.warnings[0]


@pytest.mark.parametrize("head", [b"MM\x01*", b"MM\x00+", b"IIMM", b"MM*\x00"])
def test_exif_that_is_no_tiff_is_a_warning_wherever_it_goes(head):
    """Found by the fuzzer: Pillow read such a block, but would not write it into a TIFF."""
    exif = Image.Exif()
    exif[0x010E] = "words"
    exif.endian = ">"
    block = b"Exif\x00\x00" + head + exif.tobytes()[10:]
    image = read(saved(Image.fromarray(noise()), "JPEG", exif=block))
    assert image.info.exif is None
    assert "EXIF" in image.info.warnings[0]
    for fmt in ("keep", "png", "tiff"):
        assert encode_image(image, fmt, KEEP).data


@pytest.mark.parametrize("error", [SyntaxError("no TIFF"), struct.error("short"), EOFError("end")])
def test_no_error_about_metadata_loses_an_image(error, monkeypatch):
    image = read(saved(Image.fromarray(noise()), "PNG", exif=Image.Exif().tobytes()))
    real = encoders.ENCODERS["png"]

    def encode(raster):
        if raster.info.exif is not None:
            raise error
        return real(raster)

    monkeypatch.setitem(encoders.ENCODERS, "png", encode)
    encoded = encode_image(image, "keep", KEEP)
    assert np.array_equal(np.asarray(opened(encoded.data)), noise())
    assert encoded.warnings == (f"metadata was not kept: {error}",)


def test_a_profile_that_bmp_cannot_hold_is_a_warning():
    data = saved(Image.fromarray(smooth()), "PNG", icc_profile=SRGB)
    assert "color profile" in encode_image(read(data), "bmp", KEEP).warnings[0]


def test_depth_that_jpeg_cannot_hold_is_a_warning():
    array = noise(3, np.uint16)
    image = read(cv2.imencode(".png", array[..., ::-1])[1].tobytes())
    encoded = encode_image(image, "bmp", KEEP)
    assert "16-bit" in encoded.warnings[0]
    assert np.array_equal(np.asarray(opened(encoded.data)), np.rint(array / 257).astype(np.uint8))
