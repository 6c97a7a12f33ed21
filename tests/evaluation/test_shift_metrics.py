"""A deblurred image is compared where it fits best."""

import numpy as np
import pytest
from PIL import Image

from varfix.engine.evaluation.metrics import psnr, score
from varfix.engine.evaluation.shift_metrics import best_shift, inner, score_up_to_shift, shifted


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(2)
    small = Image.fromarray(rng.integers(0, 256, (14, 18, 3), np.uint8))
    return np.asarray(small.resize((72, 60), Image.Resampling.BICUBIC), np.float32) / 255


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (-5, 5), (1, 0)])
def test_whole_shifts_are_found_and_undone_exactly(image, shift):
    moved = np.roll(image, (-shift[0], -shift[1]), (0, 1))
    assert best_shift(moved, image) == shift
    assert score_up_to_shift(moved, image).psnr == np.inf


@pytest.mark.parametrize("shift", [(0.25, 0.0), (-1.5, 2.75), (4.75, -0.25)])
def test_quarter_shifts_are_found(image, shift):
    target = np.zeros_like(image)
    target[15:-15, 15:-15] = shifted(image, shift)
    assert best_shift(image, target) == shift


def test_the_search_is_the_exhaustive_one(image):
    rng = np.random.default_rng(5)
    other = (image + rng.normal(0, 0.1, image.shape)).astype(np.float32)
    other = np.roll(other, (1, -2), (0, 1))
    steps = np.arange(-20, 21) / 4
    errors = {
        (y, x): np.mean((shifted(other, (y, x)).astype(np.float64) - inner(image)) ** 2)
        for y in steps
        for x in steps
    }
    assert best_shift(other, image) == min(errors, key=errors.get)


def test_it_is_never_worse_than_the_plain_score_of_the_same_part(image):
    other = image[::-1].copy()
    assert score_up_to_shift(other, image).psnr >= psnr(inner(other), inner(image))


def test_without_a_shift_it_is_the_plain_score_of_the_inner_part(image):
    noisy = np.clip(image + np.random.default_rng(1).normal(0, 0.02, image.shape), 0, 1)
    noisy = noisy.astype(np.float32)
    assert best_shift(noisy, image) == (0, 0)
    assert score_up_to_shift(noisy, image) == score(inner(noisy), inner(image))


def test_images_that_do_not_fit_are_refused(image):
    with pytest.raises(ValueError, match="differ in size"):
        score_up_to_shift(image, image[:-1])
    with pytest.raises(ValueError, match="41 x 41"):
        score_up_to_shift(image[:40], image[:40])
