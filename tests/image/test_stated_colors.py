"""Colors that a file states without a profile look the same in the result, whatever its format."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin
from support import images as kit
from support.images import shared

from varfix.engine.errors import DecodeUnsupportedError
from varfix.engine.image import cicp, icc, isobmff, png
from varfix.engine.image.header import probe
from varfix.engine.image.writer import encode_image
from varfix.engine.settings.types import OutputSettings

P3 = ((0.3127, 0.3290), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
# Columns of Apple's own Display P3 profile.
DISPLAY_P3 = [
    [0.51512, 0.29198, 0.15710],
    [0.24120, 0.69225, 0.06657],
    [-0.00105, 0.04189, 0.78407],
]


def chunk_chrm(points):
    return b"cHRM", struct.pack(">8I", *(round(v * 100_000) for point in points for v in point))


def chunk_gama(value):
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def stated(array, *chunks, depth=8):
    """Write a PNG with chunks on its colors."""
    if depth == 16:
        deep = array.astype(np.uint16) * 257
        data = cv2.imencode(".png", deep[..., ::-1] if deep.ndim == 3 else deep)[1].tobytes()
    else:
        data = kit.saved(Image.fromarray(array), "PNG")
    return png.insert(data, chunks)


def as_shown(data):
    """Return what a color-managed viewer shows of a file with a profile, by LittleCMS."""
    image = kit.opened(data)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    shown = ImageCms.profileToProfile(
        image.convert("RGB"), profile, ImageCms.createProfile("sRGB"), 1, outputMode="RGB"
    )
    return np.asarray(shown).astype(int)


def test_the_profile_of_p3_is_that_of_apple():
    made = icc.read_matrix_profile(cicp.profile_of_codes(12, 13))
    assert np.allclose(made.matrix, DISPLAY_P3, atol=1e-4)
    assert made.curves[0] == made.curves[1] == made.curves[2]
    values = np.linspace(0, 1, 50, dtype=np.float32)
    assert np.allclose(
        made.curves[0].to_linear(values), icc.SRGB_CURVE.to_linear(values), atol=1e-4
    )


def test_the_profile_of_srgb_is_that_of_littlecms():
    made = icc.read_matrix_profile(cicp.profile(cicp._BT709, cicp._SRGB))
    assert np.allclose(made.matrix, icc.SRGB_MATRIX, atol=3e-4)


@pytest.mark.parametrize("codes", [(1, 13), (2, 2), (1, 2), (2, 13), (1, 200), (99, 13)])
def test_srgb_and_unknown_codes_need_no_profile(codes):
    assert cicp.profile_of_codes(*codes) is None


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize("primaries", [4, 5, 6, 7, 9, 11, 12, 22])
@pytest.mark.parametrize("transfer", [1, 4, 5, 7, 8, 13, 14])
def test_every_profile_is_one_that_littlecms_reads(primaries, transfer, gray):
    profile = cicp.profile_of_codes(primaries, transfer, gray=gray)
    opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    assert opened.profile.xcolor_space.strip() == ("GRAY" if gray else "RGB")
    simple = icc.read_matrix_profile(profile)
    values = np.linspace(0, 1, 99, dtype=np.float32)
    curve = simple.curves[0]
    assert (np.diff(curve.to_linear(values)) > 0).all()
    assert abs(curve.to_linear(np.float32([1]))[0] - 1) < 1e-3
    assert np.allclose(curve.to_encoded(curve.to_linear(values)), values, atol=2e-3)
    if not gray:  # white is the white of profiles
        assert np.allclose(simple.matrix.sum(axis=1), [0.9642, 1.0, 0.8249], atol=1e-3)


STATED = {
    "gamma 1": [chunk_gama(1.0)],
    "gamma 1/1.8": [chunk_gama(0.55556)],
    "P3 with gamma": [chunk_gama(0.45455), chunk_chrm(P3)],
    "P3 alone": [chunk_chrm(P3)],
    "cICP P3": [(b"cICP", bytes((12, 13, 0, 1)))],
    "cICP BT.2020 linear": [(b"cICP", bytes((9, 8, 0, 1)))],
    "cICP before others": [(b"cICP", bytes((12, 13, 0, 1))), chunk_gama(1.0)],
}


def reference(array, name):
    """Compute the look by the definitions, in floats: light, then BT.709 primaries, then sRGB."""
    light = array / 255
    if name == "gamma 1":
        pass
    elif name == "gamma 1/1.8":
        light = light**1.8
    elif name == "cICP BT.2020 linear":
        light = light @ np.array(BT2020_TO_BT709).T
    else:
        light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
        light = light @ np.array(P3_TO_BT709).T
    light = light.clip(0, 1)
    shown = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return shown * 255


# ITU-R BT.2087 and SMPTE EG 432-1, both for D65.
BT2020_TO_BT709 = [
    [1.6605, -0.5876, -0.0728],
    [-0.1246, 1.1329, -0.0083],
    [-0.0182, -0.1006, 1.1187],
]
P3_TO_BT709 = [
    [1.2249, -0.2247, 0.0],
    [-0.0420, 1.0419, 0.0],
    [-0.0197, -0.0786, 1.0979],
]


@pytest.mark.parametrize("target", ["jpeg", "tiff", "webp", "avif"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("name", STATED)
def test_colors_look_the_same_in_every_format(name, depth, target):
    array = kit.smooth()
    image = kit.read(stated(array, *STATED[name], depth=depth))
    expected = reference(array.astype(float), name)
    assert np.abs(image.pixels * 255 - expected).mean() < 0.6
    encoded = encode_image(image, target, OutputSettings(avif_quality=98, jpeg_quality=98))
    if target == "tiff" and depth == 16:
        return  # Pillow opens no such file; the profile is the same as at 8 bits
    assert np.abs(as_shown(encoded.data) - expected).mean() < 3
    assert all("16-bit" in words for words in encoded.warnings)


@pytest.mark.parametrize("name", STATED)
def test_a_png_states_its_colors_as_before(name):
    data = stated(kit.smooth(), *STATED[name])
    result = kit.round_trip(data)
    kept = {kind: payload for kind, payload in png.chunks(result) if kind in png.COLOR}
    assert kept == dict(STATED[name])
    assert not any(kind == b"iCCP" for kind, _payload in png.chunks(result))
    assert np.array_equal(np.asarray(kit.opened(result)), kit.smooth())


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk_gama(0.45455)],
        [chunk_gama(0.45455), chunk_chrm(cicp._BT709)],
        [(b"sRGB", b"\x00"), chunk_gama(0.45455)],
        [(b"sRGB", b"\x00"), chunk_gama(1.0)],
        [(b"gAMA", bytes(4))],
        [(b"cHRM", bytes(32))],
        [(b"gAMA", b"\x00")],
        [(b"cICP", bytes((1, 13, 0, 1)))],
    ],
)
def test_ordinary_and_empty_statements_change_nothing(chunks):
    image = kit.read(stated(kit.smooth(), *chunks))
    assert image.info.icc is None
    assert image.origin is None


def test_gray_with_a_gamma_of_its_own_gets_a_gray_profile():
    gray = np.tile(np.arange(64, dtype=np.uint8) * 4, (16, 1))
    image = kit.read(stated(gray, chunk_gama(1.0)))
    result = kit.opened(encode_image(image, "jpeg", kit.KEEP).data)
    assert result.mode == "L"
    assert result.info["icc_profile"][16:20] == b"GRAY"


def test_a_profile_goes_before_chunks():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    info = PngImagePlugin.PngInfo()
    info.add(*chunk_gama(1.0))
    data = kit.saved(Image.fromarray(kit.smooth()), "PNG", icc_profile=srgb, pnginfo=info)
    image = kit.read(data)
    assert image.info.icc == srgb
    assert not image.info.icc_is_implied


def test_without_metadata_colors_are_converted():
    image = kit.read(stated(kit.smooth(), chunk_gama(1.0)))
    encoded = encode_image(image, "png", OutputSettings(metadata="none"))
    assert "converted to sRGB" in encoded.warnings[0]
    expected = reference(kit.smooth().astype(float), "gamma 1")
    assert np.abs(np.asarray(kit.opened(encoded.data)) - expected).max() <= 1


@pytest.mark.parametrize("name", ["p_gama1.png", "p_chrm_p3.png"])
def test_stated_colors_of_another_program_survive_in_a_jpeg(name):
    image = kit.read(shared(name))
    encoded = encode_image(image, "jpeg", OutputSettings(jpeg_quality=100))
    assert encoded.warnings == ()
    assert np.abs(as_shown(encoded.data) - image.pixels * 255).mean() < 1.5


@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG")])
def test_hdr_in_a_png_stays_in_a_png_and_is_a_warning_elsewhere(transfer, name):
    codes = bytes((9, transfer, 0, 1))
    image = kit.read(stated(kit.smooth(), (b"cICP", codes), depth=16))
    restored_as = f"HDR image ({name}) is restored as if it were SDR, for which the models are made"
    assert image.info.warnings == (restored_as,)
    kept = encode_image(image, "keep", kit.KEEP)
    assert dict(png.chunks(kept.data))[b"cICP"] == codes
    assert kept.warnings == ()
    for target in ("jpeg", "tiff", "avif"):
        warnings = encode_image(image, target, kit.KEEP).warnings
        assert any(f"HDR colors ({name})" in words for words in warnings)


def test_hdr_of_another_program_is_a_warning_in_a_jpeg():
    warnings = encode_image(kit.read(shared("p_cicp_pq16.png")), "jpeg", kit.KEEP).warnings
    assert any("HDR colors (PQ)" in words for words in warnings)


def avif(primaries, transfer):
    """Write an AVIF and put other codes into its color box."""
    data = kit.saved(Image.fromarray(kit.smooth()), "AVIF", quality=98, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def heif(primaries, transfer):
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(kit.smooth())).save(
        out,
        quality=98,
        chroma=444,
        color_primaries=primaries,
        transfer_characteristics=transfer,
        matrix_coefficients=6,
        full_range_flag=1,
    )
    return out.getvalue()


@pytest.mark.parametrize("write", [avif, heif])
@pytest.mark.parametrize("target", ["keep", "jpeg", "png", "tiff"])
def test_code_points_of_avif_and_heic_become_a_profile(write, target):
    data = write(12, 13)
    assert isobmff.read_items(data).cicp == (12, 13)
    image = kit.read(data)
    plain = np.asarray(kit.opened(data).convert("RGB")) if write is avif else kit.smooth()
    expected = reference(plain.astype(float), "cICP P3")
    assert np.abs(image.pixels * 255 - expected).mean() < 2
    encoded = encode_image(image, target, OutputSettings(avif_quality=98, heic_quality=98))
    assert encoded.warnings == ()
    again = kit.read(encoded.data)
    assert np.allclose(icc.read_matrix_profile(again.info.icc).matrix, DISPLAY_P3, atol=1e-3)
    assert np.abs(again.pixels - image.pixels).mean() < 0.01


@pytest.mark.parametrize("write", [avif, heif])
@pytest.mark.parametrize("transfer, name", [(16, "PQ"), (18, "HLG")])
def test_hdr_that_would_be_lost_is_refused(write, transfer, name, tmp_path):
    data = write(9, transfer)
    path = tmp_path / "a.bin"
    path.write_bytes(data)
    for call in (lambda: kit.read(data), lambda: probe(path)):
        with pytest.raises(DecodeUnsupportedError, match=rf"HDR image \({name}\)") as caught:
            call()
        assert "sRGB" in caught.value.hint


def test_code_points_of_another_program():
    image = kit.read(shared("heic_nclx_p3.heic"))
    assert np.allclose(icc.read_matrix_profile(image.info.icc).matrix, DISPLAY_P3, atol=1e-4)
    with pytest.raises(DecodeUnsupportedError, match=r"HDR image \(PQ\)"):
        kit.read(shared("avif_pq10.avif"))


@pytest.mark.parametrize("write", [avif, heif])
def test_ordinary_code_points_change_nothing(write):
    image = kit.read(write(1, 13))
    assert image.info.icc is None
    assert image.origin is None
