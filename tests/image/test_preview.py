"""Previews are small, true in shape and color, and never larger than the image."""

import io

import numpy as np
import pytest
from PIL import Image

from varfix.engine.errors import NonFiniteError
from varfix.engine.image.preview import detail, preview


def shown(pixels, side=64):
    image = Image.open(io.BytesIO(preview(np.asarray(pixels, np.float32), side)))
    assert image.format == "JPEG"
    return image


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((300, 200), (64, 43)),
        ((200, 300), (43, 64)),
        ((64, 64), (64, 64)),
        ((20, 10), (20, 10)),
        ((1, 1), (1, 1)),
        ((4000, 2), (64, 1)),
    ],
)
def test_the_longer_side_is_bounded_and_the_shape_kept(size, expected):
    width, height = size
    assert shown(np.full((height, width, 3), 0.5)).size == expected


def test_colors_stay_and_channels_are_in_order():
    pixels = np.full((90, 120, 3), (1.0, 0.5, 0.0))
    assert np.abs(np.asarray(shown(pixels)).astype(int) - (255, 128, 0)).max() <= 3


def test_every_pixel_counts_not_only_some():
    stripes = np.zeros((128, 128, 3))
    stripes[:, ::2] = 1.0
    assert abs(np.asarray(shown(stripes)).mean() - 127.5) < 2


def test_what_is_no_number_is_not_shown_as_black():
    with pytest.raises(NonFiniteError):
        preview(np.full((4, 4, 3), np.nan, np.float32), 64)


@pytest.mark.parametrize(("height", "width"), [(400, 900), (900, 400), (90, 2000), (2000, 30)])
def test_the_detail_is_where_most_has_changed(height, width):
    before = np.zeros((height, width, 3), np.float32)
    after = before.copy()
    after[-40:, -20:] = 0.5
    region = detail(before, after, 120)
    assert region is not None
    rows, columns = region
    assert after[rows, columns].shape == (min(80, height), min(120, width), 3)
    assert after[rows, columns].sum() > 0.75 * after.sum()


def test_a_small_image_needs_no_detail():
    pixels = np.zeros((120, 120, 3), np.float32)
    assert detail(pixels, pixels, 120) is None


def test_a_detail_is_inside_the_image_even_if_nothing_has_changed():
    pixels = np.zeros((121, 1000, 3), np.float32)
    assert detail(pixels, pixels, 120) == (slice(0, 80), slice(0, 120))
