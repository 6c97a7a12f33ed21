"""Low frequencies of a video's frames: their similarity, and their average over time.

After restoration they flicker, because noise coarser than the network's receptive field remains.
They are averaged where the source's low frequencies agree within the noise that the model removed.
So pixels that the model does not change stay the same, and real motion is not smeared. (An average
of `restored - source` reduces no flicker: coarse noise is in both, and cancels.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CELL: Final = 4
"""Side of the cells in pixels; the means of the cells are the low frequencies."""

NOISES: Final = 2.0
"""Cells agree if their means differ by at most about this many standard deviations of noise."""

STEP: Final = 0.5 / 255.0
"""Cells also agree if their difference is invisible in an 8-bit image."""

_MAX_EXPONENT: Final = 50.0  # keeps every weight above 0


@dataclass(frozen=True)
class LowFrequencies:
    """Low frequencies of one frame, in cells.

    Attributes:
        source: (h, w, 3) float32, means of the source's cells.
        restored: (h, w, 3) float32, means of the restored cells.
        tolerance: (h, w) float32, difference up to which the source's cells agree with those of
            other frames; 0 where nothing was restored.
    """

    source: Floats
    restored: Floats
    tolerance: Floats


def low_frequencies(source: Floats, restored: Floats) -> LowFrequencies:
    """Measure a frame (H, W, 3) in [0, 1] before and after restoration."""
    before, after = cell_means(source), cell_means(restored)
    height, width = before.shape[:2]
    # One pixel in four is enough to estimate noise.
    change = restored[::2, ::2] - source[::2, ::2]
    mean = area_means(change, height, width)
    power = area_means(np.square(change), height, width).mean(-1)
    noise = np.sqrt(np.maximum(power - np.square(mean).mean(-1), 0.0))
    tolerance = np.where(power > 0.0, STEP + NOISES / CELL * noise, 0.0)
    return LowFrequencies(before, after, tolerance.astype(np.float32))


def cell_means(pixels: Floats) -> Floats:
    """Return the means of (H, W, 3) over cells of about CELL x CELL pixels, (h, w, 3)."""
    return area_means(pixels, -(-pixels.shape[0] // CELL), -(-pixels.shape[1] // CELL))


def area_means(pixels: Floats, height: int, width: int) -> Floats:
    """Return the means of (H, W, 3) over the areas of (height, width, 3) cells."""
    import cv2

    cells = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cells, np.float32).reshape(height, width, 3)


def correction(now: LowFrequencies, near: Iterable[tuple[float, LowFrequencies]]) -> Floats:
    """Return the change that brings a frame's low frequencies to their average over time.

    Args:
        now: Low frequencies of the frame.
        near: Weights above 0, and low frequencies, of other frames of its scene; the frame itself
            has weight 1.

    Returns:
        (h, w, 3) float32; exactly 0 where nothing was restored.
    """
    change = np.zeros_like(now.restored)
    total = np.ones_like(now.tolerance)
    touched = now.tolerance > 0.0
    tolerance = np.where(touched, now.tolerance, np.float32(1.0))
    for share, other in near:
        weight = similarity(now.source, other.source, tolerance) * touched * np.float32(share)
        change += weight[..., None] * (other.restored - now.restored)
        total += weight
    change /= total[..., None]
    return change


def add(pixels: Floats, change: Floats) -> None:
    """Add a change (h, w, 3) of the low frequencies to a frame (H, W, 3) in [0, 1], in place."""
    import cv2

    if not change.any():
        return
    height, width = pixels.shape[:2]
    pixels += cv2.resize(change, (width, height), interpolation=cv2.INTER_LINEAR)
    np.clip(pixels, 0.0, 1.0, out=pixels)


def similarity(a: Floats, b: Floats, tolerance: Floats | float) -> Floats:
    """Return the similarity of two small images at each place.

    Args:
        a: (h, w, 3).
        b: (h, w, 3).
        tolerance: Root mean square difference of similar places, above 0; (h, w), or one number
            for all.

    Returns:
        (h, w) float32 in (0, 1]; 1 for equal places.
    """
    difference = a - b
    distance = np.einsum("hwc,hwc->hw", difference, difference) / np.float32(a.shape[-1])
    weights: Floats = np.exp(-np.minimum(distance / (2.0 * np.square(tolerance)), _MAX_EXPONENT))
    return weights
