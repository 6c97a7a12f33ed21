"""Brightness and color have strengths of their own."""

import cv2
import numpy as np
import pytest

from varfix.engine.restoration.strength import blend, scale
from varfix.engine.settings.types import Settings, Strength


def images(seed=0):
    rng = np.random.default_rng(seed)
    return rng.random((9, 11, 3), np.float32), rng.random((9, 11, 3), np.float32)


def ycc(pixels):
    """Luma and color differences by OpenCV, as an independent witness."""
    return cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_RGB2YCrCb)


def test_one_number_is_a_plain_blend():
    source, restored = images()
    result = blend(source, restored.copy(), Settings(strength=0.3).strengths)
    np.testing.assert_allclose(result, 0.7 * source + 0.3 * restored, atol=1e-6)


def test_the_ends_are_exact():
    source, restored = images()
    assert np.array_equal(blend(source, restored.copy(), Strength()), restored)
    nothing = Strength(luma=0.0, chroma=0.0)
    assert np.array_equal(blend(source, restored.copy(), nothing), source)


@pytest.mark.parametrize(("luma", "chroma"), [(0.6, 1.0), (0.0, 1.0), (1.0, 0.0), (0.2, 0.5)])
def test_luma_and_color_are_blended_apart(luma, chroma):
    source, restored = images(4)
    source, restored = 0.3 + 0.4 * source, 0.3 + 0.4 * restored  # so that nothing is clipped
    result = blend(source, restored.copy(), Strength(luma=luma, chroma=chroma))
    before, after, mixed = ycc(source), ycc(restored), ycc(result)
    weights = np.array([luma, chroma, chroma])
    np.testing.assert_allclose(mixed, before + weights * (after - before), atol=2e-3)


def test_results_stay_in_range():
    source, restored = images(7)
    result = blend(source, restored.copy(), Strength(luma=1.0, chroma=0.0))
    assert result.min() >= 0.0
    assert result.max() <= 1.0


def test_a_change_is_scaled_as_images_are_blended():
    source, restored = images(2)
    source, restored = 0.3 + 0.4 * source, 0.3 + 0.4 * restored
    parts = Strength(luma=0.4, chroma=0.8)
    wanted = blend(source, restored.copy(), parts)
    np.testing.assert_allclose(source + scale(restored - source, parts), wanted, atol=1e-6)
