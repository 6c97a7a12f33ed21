"""Photographs decoded once and kept in memory, and random images cut from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from varfix.engine.errors import NothingToDoError
from varfix.engine.train.degradations.random_draws import chance, integer, uniform

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
SMALLEST = 256
"""Photographs with a shorter side than this teach nothing about whole images."""

SHRUNK, ENLARGED = 0.6, 0.15
"""Shares of cuts that are made smaller, and larger; the rest stay as they are."""

LARGEST_SCALE = 1.6

THREADS = 16
"""At most so many cut images at once; OpenCV lets go of Python's lock."""

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB uint8."""


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

        A cut is a random part of a random photograph, mirrored at random: as it is, enlarged up to
        `LARGEST_SCALE` times, as soft as large files are at full size, or a larger rectangle
        squashed to the square as thumbnails are.
        """
        host = host_generator(rng)
        cuts = [self._plan(side, host) for _ in range(count)]
        return stacked(cut_all(cuts, side), rng.device)

    def _plan(self, side: int, rng: torch.Generator) -> tuple[Picture, Cut]:
        photo = self.pictures[integer(0, len(self), rng)]
        return photo, random_cut(photo.shape[:2], side, rng)


def host_generator(rng: torch.Generator) -> torch.Generator:
    """A generator of the host that follows from one of any device, by a single draw from it.

    Every number that the host draws from a GPU makes it wait for all that the GPU has to do.
    """
    if rng.device.type == "cpu":
        return rng
    return torch.Generator().manual_seed(integer(0, 2**62, rng))


def cut_all(cuts: Sequence[tuple[Picture, Cut]], side: int) -> list[Picture]:
    """Squares (side, side, 3) of images, cut by as many threads as there are cores to spare."""
    threads = min(THREADS, torch.get_num_threads(), len(cuts))
    if threads < 2:
        return [cut_picture(picture, cut, side) for picture, cut in cuts]
    with ThreadPoolExecutor(threads) as workers:
        return list(workers.map(lambda pair: cut_picture(pair[0], pair[1], side), cuts))


def random_cut(size: tuple[int, ...], side: int, rng: torch.Generator) -> Cut:
    """A random part of an image of (height, width), in the shares of `SHRUNK` and `ENLARGED`."""
    kind = float(uniform((), 0.0, 1.0, rng))
    if kind < SHRUNK:
        height, width = (_cut_side(length, side, rng) for length in size)
    else:
        scale = float(uniform((), 1.0, LARGEST_SCALE, rng)) if kind < SHRUNK + ENLARGED else 1.0
        height, width = (min(length, round(side / scale)) for length in size)
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
    squashed = cv2.resize(
        piece, (side, side), interpolation=cv2.INTER_CUBIC if small else cv2.INTER_AREA
    )
    return np.ascontiguousarray(squashed[:, ::-1] if cut.mirrored else squashed).astype(np.uint8)


def stacked(cuts: Sequence[Picture], device: torch.device) -> Tensor:
    """Squares (side, side, 3) as one batch (B, 3, side, side) in [0, 1], on a device."""
    batch = torch.from_numpy(np.stack(cuts))
    if device.type == "cuda":
        batch = batch.pin_memory().to(device, non_blocking=True)
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
