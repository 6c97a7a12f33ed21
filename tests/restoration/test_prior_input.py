"""The prior sees a thumbnail of means, and pieces of the image itself."""

import numpy as np
import pytest

from varfix.engine.restoration.prior_input import CROP, PLACES, native_crops, thumbnail


def area_means(pixels, size):
    """The definition: each output pixel the mean over the rectangle that it covers."""

    def weights(length):
        edges = np.linspace(0, length, size + 1)
        low, high = edges[:-1, None], edges[1:, None]
        cells = np.arange(length)
        covered = np.clip(np.minimum(high, cells + 1) - np.maximum(low, cells), 0, None)
        return covered / covered.sum(1, keepdims=True)

    rows, columns = weights(pixels.shape[0]), weights(pixels.shape[1])
    return np.einsum("ih,hwc,jw->ijc", rows, pixels, columns)


@pytest.mark.parametrize(
    "shape",
    [(64, 64), (128, 96), (100, 133), (33, 33), (1, 1), (7, 5), (20, 900), (900, 20), (1, 300)],
)
def test_a_thumbnail_pixel_is_the_mean_of_the_area_it_covers(shape):
    pixels = np.random.default_rng(1).random((*shape, 3), np.float32)
    small = thumbnail(pixels, 32)
    assert small.shape == (32, 32, 3)
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, area_means(pixels, 32), atol=2e-5)


def test_an_image_of_the_thumbnails_size_is_its_own_thumbnail():
    pixels = np.random.default_rng(2).random((32, 32, 3), np.float32)
    assert np.array_equal(thumbnail(pixels, 32), pixels)


def test_the_image_is_not_changed():
    pixels = np.random.default_rng(3).random((50, 70, 3), np.float32)
    before = pixels.copy()
    thumbnail(pixels, 32)
    assert np.array_equal(pixels, before)


def test_crops_are_the_image_itself_around_their_places():
    rng = np.random.default_rng(0)
    image = rng.random((200, 320, 3), np.float32)
    crops = native_crops(image)
    assert crops.shape == (len(PLACES), CROP, CROP, 3)
    np.testing.assert_array_equal(crops[0], image[68:132, 128:192])
    np.testing.assert_array_equal(crops[1], image[8:72, 32:96])


@pytest.mark.parametrize("size", [(1, 1), (10, 300), (63, 64), (64, 64)])
def test_a_small_image_is_mirrored_to_the_size_of_a_crop(size):
    image = np.random.default_rng(0).random((*size, 3), np.float32)
    crops = native_crops(image)
    assert crops.shape == (len(PLACES), CROP, CROP, 3)
    np.testing.assert_array_equal(np.unique(crops), np.unique(crops[np.isin(crops, image)]))
