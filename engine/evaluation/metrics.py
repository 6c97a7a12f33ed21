"""PSNR and SSIM as the restoration field reports them.

SSIM is that of Wang et al. (2004): Gaussian window of 11 samples, sigma 1.5, population
covariance. The Y variants measure luma as MATLAB's `rgb2ycbcr` defines it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Image = npt.NDArray[np.float32] | Array

RADIUS = 5
SIGMA = 1.5
K1, K2 = 0.01, 0.03


@dataclass(frozen=True)
class Scores:
    """Similarity of a restored image and its target.

    Attributes:
        psnr: Over all channels, in dB; infinite for equal images.
        ssim: Mean over channels, at most 1.
        psnr_y: PSNR of luma, in dB.
        ssim_y: SSIM of luma.
    """

    psnr: float
    ssim: float
    psnr_y: float
    ssim_y: float

    @classmethod
    def mean(cls, scores: Sequence[Scores]) -> Scores:
        """Average each score over at least one image."""
        columns = zip(*map(astuple, scores), strict=True)
        return cls(*(sum(column) / len(scores) for column in columns))


def psnr(a: Image, b: Image, peak: float = 1.0) -> float:
    """Return the peak signal-to-noise ratio in dB.

    Args:
        a: Any shape.
        b: The same shape.
        peak: The largest value a sample can have.

    Raises:
        ValueError: The shapes differ.
    """
    _same_shape(a, b)
    error = float(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64))))
    return math.inf if error == 0.0 else 10.0 * math.log10(peak * peak / error)


def ssim(a: Image, b: Image, peak: float = 1.0) -> float:
    """Return the mean structural similarity.

    Args:
        a: (H, W) or (H, W, C), at least 11 x 11; channels are averaged.
        b: The same shape.
        peak: The largest value a sample can have.

    Raises:
        ValueError: The shapes differ, or the window does not fit.
    """
    _same_shape(a, b)
    side = 2 * RADIUS + 1
    if min(a.shape[:2]) < side:
        raise ValueError(f"SSIM needs at least {side} x {side} pixels, got {a.shape[:2]}")
    channels = a.shape[2] if a.ndim == 3 else 1
    planes = (a.reshape(*a.shape[:2], channels), b.reshape(*b.shape[:2], channels))
    return float(
        np.mean([_ssim_plane(planes[0][..., c], planes[1][..., c], peak) for c in range(channels)])
    )


def luma(rgb: Image) -> Array:
    """Return BT.601 luma in studio range.

    Args:
        rgb: (H, W, 3) in [0, 1].

    Returns:
        (H, W) float64 in [16 / 255, 235 / 255].
    """
    weights = np.array([65.481, 128.553, 24.966]) / 255.0
    y: Array = rgb.astype(np.float64) @ weights + 16.0 / 255.0
    return y


def score(restored: Image, target: Image) -> Scores:
    """Compare two images.

    Args:
        restored: (H, W, 3) in [0, 1], at least 11 x 11.
        target: The same shape.

    Raises:
        ValueError: The shapes differ, or the image is too small for SSIM.
    """
    restored_y, target_y = luma(restored), luma(target)
    return Scores(
        psnr=psnr(restored, target),
        ssim=ssim(restored, target),
        psnr_y=psnr(restored_y, target_y),
        ssim_y=ssim(restored_y, target_y),
    )


def _same_shape(a: Image, b: Image) -> None:
    if a.shape != b.shape:
        raise ValueError(f"images differ in size: {a.shape} and {b.shape}")


def _ssim_plane(a: Image, b: Image, peak: float) -> float:
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _window(x), _window(y)
    var_x = _window(x * x) - mean_x * mean_x
    var_y = _window(y * y) - mean_y * mean_y
    cov = _window(x * y) - mean_x * mean_y
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    top = (2.0 * mean_x * mean_y + c1) * (2.0 * cov + c2)
    bottom = (mean_x * mean_x + mean_y * mean_y + c1) * (var_x + var_y + c2)
    return float(np.mean(top / bottom))


def _window(plane: Array) -> Array:
    """Average over the Gaussian window, where it fits whole: (H, W) -> (H - 10, W - 10)."""
    import cv2

    offsets = np.arange(-RADIUS, RADIUS + 1)
    kernel = np.exp(-0.5 * np.square(offsets / SIGMA))
    kernel /= kernel.sum()
    blurred = cv2.sepFilter2D(plane, cv2.CV_64F, kernel, kernel)
    return np.asarray(blurred, np.float64)[RADIUS:-RADIUS, RADIUS:-RADIUS]
