"""Photographs decoded once and kept in memory, and random images cut from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from varfix.engine.errors import NothingToDoError
from varfix.engine.train.degradations.random_draws import chance, integer, uniform

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
SMALLEST = 256
"""Photographs with a shorter side than this teach nothing about whole images."""

GPU_SHARE = 0.4
"""Share of a GPU's free memory that photographs may take."""

Picture = NDArray[np.uint8] | Tensor
"""(H, W, 3) RGB uint8, in the host's memory or, as a tensor, on a GPU."""


@dataclass(frozen=True)
class Cut:
    """A rectangle of an image, mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


class Photos:
    """An in-memory set of photographs."""

    def __init__(self, pictures: list[Picture]) -> None:
        """Keep decoded RGB images (H, W, 3)."""
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, count: int, side: int, rng: torch.Generator) -> Tensor:
        """Cut `count` random square images (count, 3, side, side) in [0, 1].

        A cut is a random rectangle of a random photograph, squashed to the square as thumbnails
        are, at least as large as the square where the photograph allows it, mirrored at random.
        """
        return stacked([self._cut(side, rng) for _ in range(count)], rng.device)

    def to(self, device: torch.device) -> Photos:
        """The photographs on a GPU, if they fit there beside the training; else these."""
        if device.type != "cuda":
            return self
        free, _ = torch.cuda.mem_get_info(device)
        if sum(picture.nbytes for picture in self.pictures) > GPU_SHARE * free:
            return self
        return Photos([torch.as_tensor(picture, device=device) for picture in self.pictures])

    def _cut(self, side: int, rng: torch.Generator) -> Picture:
        photo = self.pictures[integer(0, len(self), rng)]
        return cut_picture(photo, random_cut(photo.shape[:2], side, rng), side)


def random_cut(size: tuple[int, ...], side: int, rng: torch.Generator) -> Cut:
    """A random rectangle of an image of (height, width), not smaller than `side` if it can be."""
    height, width = (_cut_side(length, side, rng) for length in size)
    top = integer(0, size[0] - height + 1, rng)
    left = integer(0, size[1] - width + 1, rng)
    return Cut(top, left, height, width, chance(0.5, rng))


def _cut_side(length: int, side: int, rng: torch.Generator) -> int:
    """A random side between `side` and the whole length; the whole if it is shorter."""
    if length <= side:
        return length
    return side + round(float(uniform((), 0.0, 1.0, rng)) * (length - side))


def cut_picture(picture: Picture, cut: Cut, side: int) -> Picture:
    """The rectangle, squashed to (side, side, 3) and mirrored."""
    piece = picture[cut.top : cut.top + cut.height, cut.left : cut.left + cut.width]
    small = min(cut.height, cut.width) < side
    if isinstance(piece, Tensor):
        return _squash_on_gpu(piece, side, cut.mirrored)
    squashed = cv2.resize(
        piece, (side, side), interpolation=cv2.INTER_CUBIC if small else cv2.INTER_AREA
    )
    return np.ascontiguousarray(squashed[:, ::-1] if cut.mirrored else squashed).astype(np.uint8)


def _squash_on_gpu(piece: Tensor, side: int, mirrored: bool) -> Tensor:
    planes = piece.permute(2, 0, 1)[None].float()
    planes = functional.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)
    squashed = planes[0].permute(1, 2, 0).round().clamp(0.0, 255.0).to(torch.uint8)
    return squashed.flip(1) if mirrored else squashed


def stacked(cuts: list[Picture], device: torch.device) -> Tensor:
    """Squares (side, side, 3) as one batch (B, 3, side, side) in [0, 1]."""
    batch = torch.stack([torch.as_tensor(cut, device=device) for cut in cuts])
    return batch.permute(0, 3, 1, 2).float() / 255.0


def load_photos(folders: Iterable[Path]) -> Photos:
    """Decode every photograph below the folders.

    Raises:
        NothingToDoError: If none is found.
    """
    files = sorted(p for f in folders for p in f.rglob("*") if p.suffix.lower() in SUFFIXES)
    pictures = [picture for path in files if (picture := decode(path)) is not None]
    if not pictures:
        raise NothingToDoError(
            "no images to train on",
            hint=f"--photos wants a folder of images of at least {SMALLEST} pixels a side",
        )
    return Photos(list(pictures))


def decode(path: Path) -> NDArray[np.uint8] | None:
    """The image at a path, or None if it cannot be read or is too small."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if picture is None or min(picture.shape[:2]) < SMALLEST:
        return None
    return np.asarray(picture, np.uint8)
