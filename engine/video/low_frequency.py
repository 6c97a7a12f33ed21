"""The low frequencies of a clip's frames: how alike they are, and their average over time.

After restoration they flicker, because noise coarser than the network's view stays. They are
averaged where the source's agree to within the noise that the model has removed; so what the model
leaves alone stays as it is, and what really moves or changes is not smeared. (Averaging
`restored - source` instead steadies nothing: coarse noise is in both, and cancels out.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

CELL: Final = 4
"""Side in pixels of the cells whose means are the low frequencies."""

NOISES: Final = 2.0
"""Cells agree when their means differ by about so many standard deviations of noise."""

STEP: Final = 0.5 / 255.0
"""They also agree when no 8-bit image would tell them apart."""

_FAR: Final = 50.0  # exponents end here, so that some weight always remains


@dataclass(frozen=True)
class LowFrequencies:
    """Low frequencies of one frame, in cells.

    Attributes:
        source: (h, w, 3), means of the source's cells.
        restored: (h, w, 3), means of the restored cells.
        tolerance: (h, w), difference within which the source's cells agree with those of other
            frames; 0 where nothing was restored.
    """

    source: Floats
    restored: Floats
    tolerance: Floats


def low_frequencies(source: Floats, restored: Floats) -> LowFrequencies:
    """Measure a frame (H, W, 3) before and after restoration."""
    before, after = cell_means(source), cell_means(restored)
    height, width = before.shape[:2]
    # One pixel in four tells as much about noise as all of them.
    change = restored[::2, ::2] - source[::2, ::2]
    mean = shrunk(change, height, width)
    power = shrunk(np.square(change), height, width).mean(-1)
    noise = np.sqrt(np.maximum(power - np.square(mean).mean(-1), 0.0))
    tolerance = np.where(power > 0.0, STEP + NOISES / CELL * noise, 0.0)
    return LowFrequencies(before, after, tolerance.astype(np.float32))


def cell_means(pixels: Floats) -> Floats:
    """Return the means of (H, W, 3) over cells of about CELL x CELL pixels, (h, w, 3)."""
    return shrunk(pixels, -(-pixels.shape[0] // CELL), -(-pixels.shape[1] // CELL))


def shrunk(pixels: Floats, height: int, width: int) -> Floats:
    """Return the means of (H, W, 3) over the areas of (height, width, 3) cells."""
    import cv2

    cells = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(cells, np.float32).reshape(height, width, 3)


def correction(now: LowFrequencies, near: Iterable[tuple[float, LowFrequencies]]) -> Floats:
    """Return what brings a frame's low frequencies to their average.

    Args:
        now: of the frame.
        near: of frames of its scene, each with its weight above 0; the frame's own is 1.

    Returns:
        (h, w, 3); exactly 0 where nothing was restored.
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


def similarity(one: Floats, other: Floats, tolerance: Floats | float) -> Floats:
    """Return how much the places of two small images look alike.

    Args:
        one: (h, w, 3).
        other: (h, w, 3).
        tolerance: root mean square difference that still counts as alike, above 0; (h, w), or one
            number for all.

    Returns:
        (h, w) float32 in (0, 1]; 1 for equal places.
    """
    apart = one - other
    distance = np.einsum("hwc,hwc->hw", apart, apart) / np.float32(apart.shape[-1])
    alike: Floats = np.exp(-np.minimum(distance / (2.0 * np.square(tolerance)), _FAR))
    return alike
