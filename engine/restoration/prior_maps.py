"""Output of the prior: its maps of an image, sampled on a tile.

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
