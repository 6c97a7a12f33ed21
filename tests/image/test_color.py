"""Files whose colors are not sRGB: what the model sees, and what comes back."""

import io

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.color_profiles import (
    CMYK,
    GRAYS,
    KEEP,
    P3,
    P3_PRIMARIES,
    SRGB,
    SRGB_PARA,
    SRGB_PRIMARIES,
    TABLED,
    WIDE,
    flat,
    gamma,
    gray_profile,
    lcms,
    matrix_profile,
    noise,
    painted,
    profile,
    read,
    texts,
    tiff,
    untouched,
    xyz,
)
from support.images import opened, saved

from varfix.engine.image.color import space_of
from varfix.engine.image.decoded_image import replace_pixels
from varfix.engine.image.writer import encode_image
from varfix.engine.settings.types import OutputSettings

# Wide gamuts.


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("name", WIDE)
def test_every_color_of_a_wide_space_comes_back_exactly(name, channels, dtype):
    array = noise(channels, dtype)
    if channels == 4:
        array[:9, :, 3] = 0
    encoded = untouched(tiff(array, WIDE[name]))
    with tifffile.TiffFile(io.BytesIO(encoded.data)) as result:
        assert np.array_equal(result.asarray(), array)
        assert result.pages[0].iccprofile == WIDE[name]
    assert encoded.warnings == ()


@pytest.mark.parametrize("name", WIDE)
def test_every_value_of_16_bits_comes_back_exactly(name):
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    array = np.dstack([ramp, ramp[::-1], ramp.T])
    result = tifffile.imread(io.BytesIO(untouched(tiff(array, WIDE[name])).data))
    assert np.array_equal(result, array)


@pytest.mark.parametrize("fmt", ["PNG", "WEBP"])
def test_wide_colors_survive_in_8_bit_formats(fmt):
    params = {"lossless": True, "exact": True} if fmt == "WEBP" else {}
    data = saved(Image.fromarray(noise(4)), fmt, icc_profile=P3, **params)
    result = opened(untouched(data).data)
    assert np.array_equal(np.asarray(result), noise(4))
    assert result.info["icc_profile"] == P3


@pytest.mark.parametrize("name", WIDE)
def test_the_model_sees_what_littlecms_makes_of_it(name):
    image = read(tiff(noise(), WIDE[name]))
    assert np.abs(image.pixels * 255 - lcms(noise(), WIDE[name])).max() < 1.5


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("color", [(0.2, 0.5, 0.7), (0.9, 0.8, 0.1), (0.05, 0.05, 0.05)])
def test_what_the_model_paints_is_what_the_file_shows(name, color):
    # From a color inside sRGB; one outside keeps what sRGB could not show.
    result = opened(
        painted(saved(Image.fromarray(flat((128, 128, 128))), "PNG", icc_profile=WIDE[name]), color)
    )
    seen = lcms(np.asarray(result), result.info["icc_profile"])
    assert np.abs(seen - np.array(color) * 255).max() <= 2.5


def test_a_color_outside_srgb_stays_there_when_the_model_changes_it():
    red = flat((250, 0, 0), np.uint16) * 257
    image = read(tiff(red, P3))
    assert image.pixels[0, 0].tolist() == [pytest.approx(1, abs=0.01), 0, 0]
    darker = replace_pixels(image, image.pixels * np.float32(0.97))
    result = tifffile.imread(io.BytesIO(encode_image(darker, "keep", KEEP).data))
    assert 240 * 257 < result[0, 0, 0] < 249 * 257
    # Converted back from sRGB it would be at least 50 and 35 of 255.
    assert (result[0, 0, 1:] < 3 * 257).all()


def test_a_file_without_room_for_the_profile_gets_srgb():
    encoded = untouched(tiff(noise(), P3), "bmp")
    assert np.abs(np.asarray(opened(encoded.data)).astype(int) - lcms(noise(), P3)).max() <= 2
    assert "BMP cannot store a color profile" in encoded.warnings[-1]


def test_without_metadata_wide_colors_become_srgb_under_transparency_too():
    array = noise(4)
    array[..., 3] = 0
    data = saved(Image.fromarray(array), "PNG", icc_profile=P3)
    encoded = untouched(data, "png", OutputSettings(metadata="none"))
    result = opened(encoded.data)
    assert "icc_profile" not in result.info
    seen = np.asarray(result)[..., :3].astype(int)
    assert np.abs(seen - lcms(array[..., :3].copy(), P3)).max() <= 2
    assert "converted to sRGB" in encoded.warnings[0]


def test_a_profile_that_cannot_be_stored_leaves_srgb_and_a_warning():
    primaries = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), (xyz(*p) for p in P3_PRIMARIES), strict=True))
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), SRGB_PARA)
    tags = {**texts(), **primaries, **curves, b"priv": b"data" + bytes(17_000_000)}
    huge = profile(b"RGB ", b"XYZ ", tags)  # JPEG holds 16.7 MB
    encoded = untouched(tiff(noise(), huge), "jpg", OutputSettings(jpeg_quality=100))
    result = np.asarray(opened(encoded.data)).astype(int)
    assert "profile cannot be stored" in encoded.warnings[-1]
    assert np.abs(result - lcms(noise(), P3)).mean() < 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", GRAYS)
def test_gray_profiles(name, dtype):
    array = noise(1, dtype)
    data = tiff(array, GRAYS[name])
    assert np.array_equal(tifffile.imread(io.BytesIO(untouched(data).data)), array)
    image = read(data)
    assert np.ptp(image.pixels, axis=2).max() == 0
    shallow = array if dtype == np.uint8 else np.rint(array / 257).astype(np.uint8)
    # LittleCMS's own rounding of a curve is coarse near black.
    seen = np.median(np.abs(image.pixels * 255 - lcms(shallow, GRAYS[name], "L")))
    assert seen < 1.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_profiles_of_tables_come_back_exactly(dtype):
    array = noise(3, dtype)
    result = tifffile.imread(io.BytesIO(untouched(tiff(array, TABLED)).data))
    assert np.array_equal(result, array)


def test_profiles_of_tables_are_used_both_ways():
    source = saved(Image.fromarray(flat((120, 130, 140))), "PNG", icc_profile=TABLED)
    result = opened(painted(source, (0.5, 0.6, 0.3)))
    seen = lcms(np.asarray(result), TABLED)[0, 0]
    assert np.abs(seen - np.array((0.5, 0.6, 0.3)) * 255).max() < 8


def test_a_change_through_tables_is_smooth_at_16_bits():
    image = read(tiff(np.full((4, 512, 3), 30000, np.uint16), TABLED))
    ramp = np.linspace(0, 0.02, 512, dtype=np.float32)[None, :, None]
    result = encode_image(replace_pixels(image, image.pixels + ramp), "keep", KEEP).data
    steps = np.diff(tifffile.imread(io.BytesIO(result)).astype(int), axis=1)
    assert steps.min() >= 0
    assert steps.max() <= 10  # at 8 bits there would be steps of 257


# Profiles that are left alone.


@pytest.mark.parametrize(
    "icc, word",
    [
        (SRGB, None),
        (matrix_profile(SRGB_PRIMARIES, SRGB_PARA), None),
        (gray_profile(SRGB_PARA), "for GRAY"),
        (b"nonsense" * 40, "profile is ignored"),
        (P3[:300], "profile is ignored"),
        (matrix_profile(P3_PRIMARIES, gamma(0)), "profile is ignored"),
        (matrix_profile(P3_PRIMARIES[:1] * 3, gamma(2.2)), "profile is ignored"),
        (CMYK, "for CMYK images"),
        (GRAYS["linear"], "for GRAY images"),
    ],
)  # fmt: skip
def test_srgb_and_useless_profiles_are_passed_through(icc, word):
    image = read(saved(Image.fromarray(noise()), "PNG", icc_profile=icc))
    assert image.origin is None
    assert [word in text for text in image.info.warnings] == ([True] if word else [])
    result = opened(encode_image(image, "keep", KEEP).data)
    assert np.array_equal(np.asarray(result), noise())
    assert result.info["icc_profile"] == icc


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 600))
def test_no_damage_to_a_profile_stops_an_image(junk, at):
    damaged = P3[:at] + junk + P3[at + len(junk) :]
    space, warning = space_of("rgb", damaged)
    assert space is None or warning is None
