"""PSNR and SSIM are what the papers' tools print."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from varfix.engine.evaluation.metrics import luma, psnr, score, ssim


def pair(shape, seed=0, noise=0.1):
    rng = np.random.default_rng(seed)
    a = rng.random(shape)
    return a, np.clip(a + rng.normal(0, noise, shape), 0, 1)


def reference_ssim(a, b, peak=1.0):
    return structural_similarity(
        a,
        b,
        channel_axis=2 if a.ndim == 3 else None,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=peak,
    )


@pytest.mark.parametrize("shape", [(11, 11), (32, 45), (40, 30, 3), (11, 64, 3)])
@pytest.mark.parametrize("noise", [0.005, 0.3])
def test_metrics_agree_with_scikit_image(shape, noise):
    a, b = pair(shape, noise=noise)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0), abs=1e-9)
    assert ssim(a, b) == pytest.approx(reference_ssim(a, b), abs=1e-9)


def test_peak_scales_the_range():
    a, b = pair((20, 20))
    assert psnr(a * 255, b * 255, peak=255) == pytest.approx(psnr(a, b))
    assert ssim(a * 255, b * 255, peak=255) == pytest.approx(ssim(a, b))


def test_single_precision_is_widened_before_it_is_squared():
    a, b = (x.astype(np.float32) for x in pair((32, 32, 3)))
    assert ssim(a, b) == ssim(a.astype(np.float64), b.astype(np.float64))
    assert psnr(a, b) == psnr(a.astype(np.float64), b.astype(np.float64))


@pytest.mark.parametrize(
    "color, y",
    [
        ((0, 0, 0), 16),
        ((1, 1, 1), 235),
        ((1, 0, 0), 81.481),
        ((0, 1, 0), 144.553),
        ((0, 0, 1), 40.966),
    ],
)
def test_luma_is_matlabs(color, y):
    plane = luma(np.full((2, 2, 3), color, np.float64))
    assert plane == pytest.approx(np.full((2, 2), y / 255), abs=1e-12)


def test_score_gathers_all_four():
    a, b = pair((24, 24, 3))
    scores = score(a, b)
    assert (scores.psnr, scores.ssim) == (psnr(a, b), ssim(a, b))
    assert scores.psnr_y == pytest.approx(peak_signal_noise_ratio(luma(a), luma(b), data_range=1.0))
    assert scores.ssim_y == pytest.approx(reference_ssim(luma(a), luma(b)))


def test_equal_images_are_perfect():
    a, _ = pair((16, 16, 3))
    scores = score(a, a)
    assert scores.psnr == scores.psnr_y == math.inf
    assert scores.ssim == scores.ssim_y == 1.0


def test_images_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="differ in size"):
        psnr(np.zeros((4, 4)), np.zeros((4, 5)))
    with pytest.raises(ValueError, match="differ in size"):
        ssim(np.zeros((40, 40)), np.zeros((40, 41)))
    with pytest.raises(ValueError, match="at least 11 x 11"):
        ssim(np.zeros((10, 40)), np.zeros((10, 40)))


@given(st.integers(0, 2**31), st.floats(0.001, 0.5))
def test_order_does_not_matter_and_bounds_hold(seed, noise):
    a, b = pair((13, 17, 3), seed, noise)
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-12)
    assert psnr(a, b) == psnr(b, a)
    assert -1 <= ssim(a, b) <= 1
