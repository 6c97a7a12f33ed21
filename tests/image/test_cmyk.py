"""Files of inks: what the model sees, what comes back, and what becomes of the black."""

import io

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from support.color_profiles import (
    CMYK,
    KEEP,
    flat,
    ink_tiff,
    lcms,
    noise,
    painted,
    read,
    untouched,
)
from support.images import opened, saved

from varfix.engine.image.color import NaiveCmyk
from varfix.engine.image.decoded_image import replace_pixels
from varfix.engine.image.writer import encode_image


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("icc", [None, CMYK], ids=["no profile", "profile"])
def test_inks_of_a_tiff_come_back_exactly(icc, dtype):
    array = noise(4, dtype)
    array[:5, :, 3] = np.iinfo(dtype).max
    encoded = untouched(ink_tiff(array, icc))
    with tifffile.TiffFile(io.BytesIO(encoded.data)) as result:
        assert np.array_equal(result.asarray(), array)
        assert result.pages[0].photometric == 5
        assert result.pages[0].iccprofile == icc
    assert encoded.warnings == ()


def smooth_inks():
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    planes = [np.tile(ramp, (48, 1)), np.tile(ramp[::-1], (48, 1))]
    return np.dstack([*planes, np.full((48, 64), 90, np.uint8), planes[0] // 3])


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
@pytest.mark.parametrize("icc", [None, CMYK], ids=["no profile", "profile"])
def test_a_jpeg_of_inks_stays_one(icc, transform):
    image = Image.frombytes("CMYK", (64, 48), smooth_inks().tobytes())
    data = bytearray(saved(image, "JPEG", quality=95, icc_profile=icc))
    data[data.index(b"Adobe") + 11] = transform
    result = opened(untouched(bytes(data)).data)
    assert result.mode == "CMYK"
    assert result.info.get("icc_profile") == icc
    before = np.asarray(opened(bytes(data))).astype(int)
    assert np.abs(np.asarray(result) - before).mean() < 2


def test_the_model_sees_inks_as_littlecms_makes_them():
    image = read(ink_tiff(noise(4), CMYK))
    assert np.abs(image.pixels * 255 - lcms(noise(4), CMYK, "CMYK")).mean() < 2


@pytest.mark.parametrize("inks", [(40, 30, 20, 90), (120, 100, 90, 0), (0, 0, 0, 200)])
def test_what_the_model_paints_is_what_is_printed(inks):
    result = tifffile.imread(io.BytesIO(painted(ink_tiff(flat(inks), CMYK), (0.4, 0.6, 0.5))))
    seen = lcms(result, CMYK, "CMYK")[0, 0]
    assert np.abs(seen - np.array((0.4, 0.6, 0.5)) * 255).max() < 5


@pytest.mark.parametrize("icc", [None, CMYK], ids=["no profile", "profile"])
def test_the_black_stays_as_it_was_separated(icc):
    # The profile's own way back would print both with black alone.
    for inks in ((120, 120, 120, 0), (100, 90, 90, 60)):
        image = read(ink_tiff(flat(inks), icc))
        darker = replace_pixels(image, image.pixels * np.float32(0.9))
        result = tifffile.imread(io.BytesIO(encode_image(darker, "keep", KEEP).data))
        assert result[0, 0, 3] == inks[3]
        assert (result[0, 0, :3] > inks[:3]).all()


@pytest.mark.parametrize("fmt", ["png", "webp", "bmp"])
def test_formats_without_cmyk_get_srgb_and_a_warning(fmt):
    encoded = untouched(ink_tiff(smooth_inks(), CMYK), fmt)
    result = opened(encoded.data)
    assert "icc_profile" not in result.info
    assert "cannot store CMYK" in encoded.warnings[-1]
    seen = np.asarray(result.convert("RGB")).astype(int)
    assert np.abs(seen - lcms(smooth_inks(), CMYK, "CMYK")).mean() < 3


UNIT = st.floats(0, 1, width=32)


@settings(deadline=None)
@given(
    npst.arrays(np.float32, (2, 3, 4), elements=UNIT),
    npst.arrays(np.float32, (2, 3, 3), elements=UNIT),
)
def test_plain_inks_show_exactly_the_wanted_color(inks, wanted):
    space = NaiveCmyk()
    seen = space.to_rgb(inks)
    moved = space.apply_change(inks, seen, wanted)
    assert moved.min() >= -1e-5
    assert moved.max() <= 1 + 1e-5
    assert np.abs(space.to_rgb(moved) - wanted).max() < 1e-4
    assert (moved[..., 3] <= inks[..., 3] + 1e-6).all()
    assert np.array_equal(space.apply_change(inks, seen, seen)[..., 3], inks[..., 3])
