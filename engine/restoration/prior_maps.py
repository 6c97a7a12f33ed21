"""Input and output of the prior: the thumbnail of an image, and its maps sampled on a tile.

See engine/README.md, "Model contract" (guidance `image`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.models.card import TASKS

Floats = npt.NDArray[np.float32]

_KINDS: Final = len(TASKS) - 1
_TONE_CHANNELS: Final = 96


def thumbnail(pixels: Floats, size: int) -> Floats:
    """Shrink a whole image to a square, each pixel the mean of the area that it covers.

    Args:
        pixels: (H, W, 3) float32 in [0, 1].
        size: Side of the square; the aspect ratio is not kept.

    Returns:
        (size, size, 3) float32 in [0, 1].
    """
    import cv2

    height, width = pixels.shape[:2]
    if (height, width) == (size, size):
        return pixels
    # One axis at a time: if one axis shrinks and the other grows, OpenCV averages neither.
    steps = [(size, height), (size, size)] if width > height else [(width, size), (size, size)]
    for step in steps:
        pixels = np.asarray(cv2.resize(pixels, step, interpolation=cv2.INTER_AREA), np.float32)
    return pixels.reshape(size, size, 3)


def sample_prior(
    maps: Floats,
    image: tuple[int, int],
    origin: tuple[int, int],
    sides: tuple[int, int],
    stride: int,
) -> Floats:
    """Sample the prior's maps on a tile.

    Cell i of n covers the i-th n-th of the image. The maps are sampled bilinearly at the center
    of each `stride` x `stride` block of the tile: the value of a block depends on its place in
    the image, not on the tile.

    Args:
        maps: (C, n, n) over the whole image.
        image: Height and width of the image in pixels.
        origin: First row and column of the tile.
        sides: Height and width of the tile, multiples of `stride`.
        stride: Pixels per sample.

    Returns:
        (C, height / stride, width / stride) for the tile.
    """
    rows, columns = (
        sampling_matrix(start, side // stride, stride, whole, cells)
        for start, side, whole, cells in zip(origin, sides, image, maps.shape[1:], strict=True)
    )
    crop: Floats = np.matmul(np.matmul(rows, maps), columns.T)
    return crop


def sampling_matrix(start: int, count: int, stride: int, whole: int, cells: int) -> Floats:
    """Return the (count, cells) matrix of bilinear sampling along one axis; clamped at borders."""
    centers = start + stride * (np.arange(count, dtype=np.float32) + 0.5)
    position = np.clip(centers * (cells / whole) - 0.5, 0.0, cells - 1.0)
    distance = np.abs(position[:, None] - np.arange(cells, dtype=np.float32))
    weights: Floats = np.maximum(1.0 - distance, 0.0).astype(np.float32)
    return weights


def changes_tone(maps: Floats) -> bool:
    """Return whether the maps (C, n, n) of a prior change the tone of the image.

    The tone grid and the scores of the kinds of damage are the last channels. A grid that the
    model does not act on is exactly 0. Maps of another structure count as changing the tone.
    """
    if len(maps) <= _TONE_CHANNELS + _KINDS:
        return True
    return bool(maps[-_TONE_CHANNELS - _KINDS : -_KINDS].any())
