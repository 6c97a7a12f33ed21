"""Scores deblurred images, which may be correct but slightly shifted.

The protocol is that of the benchmark of Levin et al. 2009 (`comp_upto_shift`): the restored image
is shifted by -5 to 5 pixels in quarter steps along both axes, bilinearly; borders of 15 pixels are
left out, and the shift with the least squared error counts.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.evaluation.metrics import Scores, score
from varfix.engine.image.decoded_image import Floats

Doubles = npt.NDArray[np.float64]
Shift = tuple[float, float]

REACH: Final = 5
"""Largest shift in pixels."""

STEPS: Final = 4
"""Steps per pixel."""

BORDER: Final = 15
BAND: Final = 64
"""Rows processed at once, with all their whole-pixel shifts in memory."""


def score_up_to_shift(restored: Floats, target: Floats) -> Scores:
    """Compare two images after the best shift.

    Args:
        restored: (H, W, 3) in [0, 1], at least 41 x 41.
        target: The same shape.

    Raises:
        ValueError: The shapes differ, or the images are too small.
    """
    if restored.shape != target.shape:
        raise ValueError(f"images differ in size: {restored.shape} and {target.shape}")
    if min(restored.shape[:2]) < 2 * BORDER + 11:
        raise ValueError(
            f"the search for a shift needs at least {2 * BORDER + 11} x {2 * BORDER + 11} pixels"
        )
    return score(shifted(restored, best_shift(restored, target)), inner(target))


def inner(image: Floats) -> Floats:
    """Return the image without its borders."""
    return image[BORDER:-BORDER, BORDER:-BORDER]


def shifted(image: Floats, shift: Shift) -> Floats:
    """Return the inner part of an image (H, W, C) shifted by (down, right) pixels, bilinearly."""
    total = np.zeros(inner(image).shape)
    for (y, x), weight in _corners(shift):
        total += weight * _moved(image, y, x)
    return total.astype(np.float32)


def best_shift(restored: Floats, target: Floats) -> Shift:
    """Return the (down, right) shift of `restored` with the least squared error to `target`.

    All 1681 shifts are compared. A bilinear shift is a weighted sum of four whole-pixel shifts, so
    every error follows from the inner products of the 121 whole-pixel shifts.
    """
    products, matches = _products(restored, target)
    offsets = np.arange(-REACH * STEPS, REACH * STEPS + 1) / STEPS
    best, least = (0.0, 0.0), np.inf
    for down in offsets:
        for right in offsets:
            corners = _corners((float(down), float(right)))
            places = [_place(y, x) for (y, x), _ in corners]
            weights = np.array([weight for _, weight in corners])
            error = weights @ products[np.ix_(places, places)] @ weights
            error -= 2.0 * (weights @ matches[places])
            # Among equal errors the smallest shift counts: a flat image has not moved.
            if (error, abs(down) + abs(right)) < (least - 1e-9, np.inf):
                best, least = (float(down), float(right)), float(error)
    return best


def _products(restored: Floats, target: Floats) -> tuple[Doubles, Doubles]:
    """Return the inner products of all whole-pixel shifts with each other and with the target."""
    count = (2 * REACH + 1) ** 2
    products, matches = np.zeros((count, count)), np.zeros(count)
    wanted = inner(target).astype(np.float64)
    whole = range(-REACH, REACH + 1)
    for start in range(0, len(wanted), BAND):
        rows = slice(start, start + BAND)
        moved = np.stack([_moved(restored, y, x)[rows].ravel() for y in whole for x in whole])
        products += moved @ moved.T
        matches += moved @ wanted[rows].ravel()
    return products, matches


def _moved(image: Floats, down: int, right: int) -> Doubles:
    height, width = image.shape[:2]
    rows = slice(BORDER - down, height - BORDER - down)
    columns = slice(BORDER - right, width - BORDER - right)
    return image[rows, columns].astype(np.float64)


def _corners(shift: Shift) -> list[tuple[tuple[int, int], float]]:
    """Return the whole-pixel shifts around a shift, and their weights."""
    sides = []
    for value in shift:
        low = int(np.floor(value))
        part = value - low
        sides.append([(low, 1.0 - part), (low + 1, part)] if part else [(low, 1.0)])
    return [((y, x), a * b) for y, a in sides[0] for x, b in sides[1]]


def _place(down: int, right: int) -> int:
    return (down + REACH) * (2 * REACH + 1) + right + REACH
