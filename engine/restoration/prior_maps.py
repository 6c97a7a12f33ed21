"""Input and output of the prior: thumbnail and crops of an image, and its maps on a tile.

See engine/README.md, "Model contract" (guidance `image`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.models.card import TASKS

Floats = npt.NDArray[np.float32]

CROP = 64
"""Side in pixels of the crops that a prior graph may look at beside the thumbnail."""

PLACES = ((0.5, 0.5), (0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8))
"""Where their centers lie, across and down, as shares of the image: the middle, four quarters."""

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


def native_crops(pixels: Floats) -> Floats:
    """Cut pieces of an image at native size: sharpness and grain do not survive a thumbnail.

    Args:
        pixels: (H, W, 3) float32 in [0, 1]. Mirrored where it is smaller than a crop.

    Returns:
        (5, 64, 64, 3) float32 in [0, 1].
    """
    lacking = [max(0, CROP - length) for length in pixels.shape[:2]]
    if any(lacking):
        pixels = np.pad(pixels, [(0, lacking[0]), (0, lacking[1]), (0, 0)], mode="symmetric")
    height, width = pixels.shape[:2]
    corners = [(_start(down, height), _start(across, width)) for across, down in PLACES]
    return np.stack([pixels[top : top + CROP, left : left + CROP] for top, left in corners])


def _start(place: float, length: int) -> int:
    return min(max(round(place * length) - CROP // 2, 0), length - CROP)


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
