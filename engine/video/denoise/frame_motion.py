"""Measures by how much the whole image moves from one frame of a video to the next."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Shift = tuple[float, float]
"""Pixels to the right, and down."""

_SMALLEST: Final = 12  # pixels of the shorter side of the smallest image
_LEVELS: Final = 5
_STEPS: Final = 4  # at every size
_BLUR: Final = 1.0  # standard deviation, against noise in the gradients
_GAIN: Final = 0.99  # a motion leaves less than this share of the differences; else it is noise
_SHARE: Final = 0.7  # of the pixels count: the rest may move on its own


def find_shift(before: Floats, after: Floats) -> Shift:
    """Return the shift v with `after(x + v) = before(x)` for most pixels x.

    By least squares on the gradients (Lucas and Kanade 1981), from small images to large ones.
    Pixels with the largest differences do not count.

    Args:
        before: Brightness (H, W) of a frame.
        after: Brightness of the next frame.

    Returns:
        The shift in pixels; (0, 0) if there is no motion, or no detail to see it by.
    """
    levels = _smaller(before, after)
    shift = 0.0, 0.0
    for first, second in reversed(levels):
        shift = _refine(first, second, (2.0 * shift[0], 2.0 * shift[1]))
    first, second = levels[0]
    is_better = _residual(first, second, shift) < _GAIN * _residual(first, second, (0.0, 0.0))
    return shift if is_better else (0.0, 0.0)


def _smaller(before: Floats, after: Floats) -> list[tuple[Floats, Floats]]:
    """Return both images, blurred, at their size, half of it, and so on."""
    import cv2

    def blurred(image: Floats) -> Floats:
        return np.asarray(cv2.GaussianBlur(image, (0, 0), _BLUR), np.float32)

    levels = [(blurred(before), blurred(after))]
    while len(levels) < _LEVELS and min(before.shape) >= 2 * _SMALLEST:
        before, after = (np.asarray(cv2.pyrDown(image), np.float32) for image in (before, after))
        levels.append((blurred(before), blurred(after)))
    return levels


def _refine(before: Floats, after: Floats, shift: Shift) -> Shift:
    """Return a better shift, not much farther than a quarter of the image."""
    start, (right, down) = shift, shift
    if min(before.shape) < 2:
        return shift
    rows, columns = (np.asarray(np.gradient(before, axis=axis), np.float32) for axis in (0, 1))
    for _ in range(_STEPS):
        error, weight = _difference(before, after, (right, down))
        weighted = weight * columns, weight * rows
        matrix = np.array(
            [[float((part * other).sum()) for other in (columns, rows)] for part in weighted]
        )
        if np.linalg.det(matrix) <= 1e-4 * np.trace(matrix) ** 2 or not matrix.any():
            return start
        delta = np.linalg.solve(matrix, [-float((part * error).sum()) for part in weighted])
        right, down = right + float(delta[0]), down + float(delta[1])
        if 4.0 * abs(right) > before.shape[1] or 4.0 * abs(down) > before.shape[0]:
            return start
    return right, down


def _residual(before: Floats, after: Floats, shift: Shift) -> float:
    """Return the mean square of the smaller differences that a shift leaves."""
    error, weight = _difference(before, after, shift)
    return float((weight * np.square(error)).sum() / max(float(weight.sum()), 1.0))


def _difference(before: Floats, after: Floats, shift: Shift) -> tuple[Floats, Floats]:
    """Return the difference (H, W) that a shift leaves, and which pixels of it count, 0 or 1."""
    error = shifted(after, shift) - before
    counted = np.zeros_like(error)
    edge = int(max(abs(part) for part in shift)) + 2
    inner = slice(edge, -edge), slice(edge, -edge)
    smaller = np.abs(error[inner])
    if smaller.size:
        counted[inner] = smaller <= np.quantile(smaller[::2, ::2], _SHARE)
    return error, counted


def shifted(image: Floats, shift: Shift) -> Floats:
    """Return `image(x + shift)`, (H, W) or (H, W, 3); edge pixels are repeated."""
    import cv2

    height, width = image.shape[:2]
    matrix = np.array([[1.0, 0.0, shift[0]], [0.0, 1.0, shift[1]]], np.float64)
    is_whole = all(float(part).is_integer() for part in shift)
    flags = (cv2.INTER_NEAREST if is_whole else cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(
        image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(moved, np.float32)
