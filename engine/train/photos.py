"""Photographs decoded once and kept in memory, and random pictures cut from them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from varfix.engine.errors import NothingToDoError
from varfix.engine.train.draw import chance, integer, uniform

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
SMALLEST = 256
"""Photographs with a shorter side than this teach nothing about whole pictures."""


class Photos:
    """An in-memory set of photographs."""

    def __init__(self, pictures: list[NDArray[np.uint8]]) -> None:
        """Keep decoded RGB pictures (H, W, 3)."""
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, count: int, side: int, rng: torch.Generator) -> Tensor:
        """Cut `count` random square pictures (count, 3, side, side) in [0, 1].

        A cut is a random rectangle of a random photograph, squashed to the square as thumbnails
        are, at least as large as the square where the photograph allows it, mirrored at random.
        """
        cuts = np.stack([self._cut(side, rng) for _ in range(count)])
        return torch.from_numpy(cuts).permute(0, 3, 1, 2).float() / 255.0

    def _cut(self, side: int, rng: torch.Generator) -> NDArray[np.uint8]:
        photo = self.pictures[integer(0, len(self), rng)]
        height, width = (_cut_side(length, side, rng) for length in photo.shape[:2])
        top = integer(0, photo.shape[0] - height + 1, rng)
        left = integer(0, photo.shape[1] - width + 1, rng)
        cut = cv2.resize(
            photo[top : top + height, left : left + width],
            (side, side),
            interpolation=cv2.INTER_AREA if min(height, width) >= side else cv2.INTER_CUBIC,
        )
        return np.ascontiguousarray(cut[:, ::-1] if chance(0.5, rng) else cut).astype(np.uint8)


def _cut_side(length: int, side: int, rng: torch.Generator) -> int:
    """A random side between `side` and the whole length; the whole if it is shorter."""
    if length <= side:
        return length
    return side + round(float(uniform((), 0.0, 1.0, rng)) * (length - side))


def load_photos(folders: Iterable[Path]) -> Photos:
    """Decode every photograph below the folders.

    Raises:
        NothingToDoError: If none is found.
    """
    files = sorted(p for f in folders for p in f.rglob("*") if p.suffix.lower() in SUFFIXES)
    pictures = [picture for path in files for picture in _decode(path)]
    if not pictures:
        raise NothingToDoError(
            "no photographs to train on",
            hint=f"--photos wants a folder of pictures of at least {SMALLEST} pixels a side",
        )
    return Photos(pictures)


def _decode(path: Path) -> list[NDArray[np.uint8]]:
    """The photograph at a path, or nothing if it cannot be read or is too small."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if picture is None or min(picture.shape[:2]) < SMALLEST:
        return []
    return [np.asarray(picture, np.uint8)]
