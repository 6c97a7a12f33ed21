"""Alpha is left alone, and what lies under it does not disturb the model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from support.images import HEIGHT, KEEP, LIMIT, WIDTH, opened, read, round_trip, saved

from varfix.engine.errors import EncodeError
from varfix.engine.image.decoded_image import fill_transparent, replace_pixels, to_integers
from varfix.engine.image.reader import has_transparency
from varfix.engine.image.writer import encode_image_bytes
from varfix.engine.settings.types import OutputSettings


def cutout():
    array = np.full((HEIGHT, WIDTH, 4), (200, 100, 50, 255), np.uint8)
    array[:, WIDTH // 2 :] = (0, 0, 0, 0)
    return array


def test_the_model_sees_neighboring_colors_under_transparency():
    image = read(saved(Image.fromarray(cutout()), "PNG"))
    seen = to_integers(image.pixels, depth=8, gray=False)
    assert np.array_equal(seen, np.broadcast_to((200, 100, 50), seen.shape))
    assert np.array_equal(image.alpha, cutout()[..., 3])


def test_restored_colors_stay_out_of_transparent_pixels():
    image = read(saved(Image.fromarray(cutout()), "PNG"))
    changed = replace_pixels(image, np.zeros_like(image.pixels) + np.float32(0.2))
    result = np.asarray(opened(encode_image_bytes(changed, "png", KEEP)))
    assert np.array_equal(result[:, : WIDTH // 2, :3], np.full((HEIGHT, WIDTH // 2, 3), 51))
    assert np.array_equal(result[:, WIDTH // 2 :], cutout()[:, WIDTH // 2 :])


@given(
    npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=17), fill=st.just(0))
)
def test_filling_touches_only_transparent_pixels(alpha):
    samples = np.random.default_rng(0).integers(0, 256, (*alpha.shape, 3), dtype=np.uint8)
    filled = fill_transparent(samples, alpha)
    visible = alpha != 0
    assert np.array_equal(filled[visible], samples[visible])
    if visible.any():
        assert filled.max() <= samples[visible].max() or visible.all()
        assert filled.min() >= samples[visible].min() or visible.all()


def test_transparency_is_refused_by_jpeg_unless_a_color_goes_under_it():
    image = read(saved(Image.fromarray(cutout()), "PNG"))
    with pytest.raises(EncodeError, match="transparency"):
        encode_image_bytes(image, "jpg", KEEP)
    result = opened(encode_image_bytes(image, "bmp", OutputSettings(flatten="white")))
    assert result.getpixel((WIDTH - 1, 0)) == (255, 255, 255)
    assert result.getpixel((0, 0)) == (200, 100, 50)
    with pytest.raises(EncodeError, match="not a color"):
        encode_image_bytes(image, "bmp", OutputSettings(flatten="whitish"))


def test_half_transparency_is_blended_with_the_color():
    array = np.full((4, 4, 2), (100, 51), np.uint8)
    image = read(saved(Image.fromarray(array), "PNG"))
    gray = opened(encode_image_bytes(image, "bmp", OutputSettings(flatten="white")))
    assert (gray.mode, gray.getpixel((0, 0))) == ("L", 224)
    red = opened(encode_image_bytes(image, "bmp", OutputSettings(flatten="#ff0000")))
    assert red.getpixel((0, 0)) == (224, 20, 20)


@pytest.mark.parametrize("alpha, hides", [(255, False), (254, True)])
def test_opaque_alpha_is_dropped_without_complaint(alpha, hides):
    array = np.full((4, 4, 4), 255, np.uint8)
    array[0, 0, 3] = alpha
    data = saved(Image.fromarray(array), "PNG")
    assert has_transparency(data, max_pixels=LIMIT) is hides
    if not hides:
        assert opened(round_trip(data, "jpg")).mode == "RGB"
