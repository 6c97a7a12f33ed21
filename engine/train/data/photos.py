"""Clean images, decoded once and kept in memory, and random crops of them."""

from __future__ import annotations

from collections.abc import Sequence
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
from varfix.engine.train.scenes.panoramas import load_panoramas

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"})
SMALLEST = 256
"""Smallest useful side of an image in pixels."""

SHRUNK, ENLARGED = 0.6, 0.15
"""Shares of crops that are shrunk, and enlarged; the others keep their scale."""

LARGEST_SCALE = 1.6

THREADS = 16
"""Largest number of threads that crop; OpenCV releases Python's lock."""

Floats = NDArray[np.float32]
Pixels = NDArray[np.uint8]
"""(H, W, 3) RGB uint8."""


@dataclass(frozen=True)
class Crop:
    """A rectangle of an image, mirrored or not."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


class Photos:
    """A set of clean images in memory."""

    def __init__(self, images: list[Pixels], panoramas: Sequence[Floats] = ()) -> None:
        """Keep decoded RGB images (H, W, 3), and panoramas (H, 2 H, 3) in linear light."""
        self.images, self.panoramas = images, panoramas

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, count: int, side: int, rng: torch.Generator) -> Tensor:
        """Return `count` random square crops (count, 3, side, side) in [0, 1].

        A crop is a random part of a random image, mirrored at random. It has its original scale, is
        enlarged up to `LARGEST_SCALE` times (large files are as soft as that at full size), or is a
        larger rectangle that is resized to the square, as thumbnails are.
        """
        host = host_generator(rng)
        crops = [self._plan(side, host) for _ in range(count)]
        return to_batch(crop_all(crops, side), rng.device)

    def _plan(self, side: int, rng: torch.Generator) -> tuple[Pixels, Crop]:
        image = self.images[integer(0, len(self), rng)]
        return image, random_crop(image.shape[:2], side, rng)


def host_generator(rng: torch.Generator) -> torch.Generator:
    """Return a generator on the CPU, seeded by a single draw from a generator of any device.

    Every draw on a GPU whose value the CPU needs waits for all of the GPU's work.
    """
    if rng.device.type == "cpu":
        return rng
    return torch.Generator().manual_seed(integer(0, 2**62, rng))


def crop_all(crops: Sequence[tuple[Pixels, Crop]], side: int) -> list[Pixels]:
    """Return crops (side, side, 3) of images, computed by several threads if possible."""
    threads = min(THREADS, torch.get_num_threads(), len(crops))
    if threads < 2:
        return [apply_crop(image, crop, side) for image, crop in crops]
    with ThreadPoolExecutor(threads) as workers:
        return list(workers.map(lambda pair: apply_crop(pair[0], pair[1], side), crops))


def random_crop(size: tuple[int, ...], side: int, rng: torch.Generator) -> Crop:
    """Return a random crop of an image (height, width), by `SHRUNK` and `ENLARGED`."""
    kind = float(uniform((), 0.0, 1.0, rng))
    if kind < SHRUNK:
        height, width = (_crop_side(length, side, rng) for length in size)
    else:
        scale = float(uniform((), 1.0, LARGEST_SCALE, rng)) if kind < SHRUNK + ENLARGED else 1.0
        height, width = (min(length, round(side / scale)) for length in size)
    top = integer(0, size[0] - height + 1, rng)
    left = integer(0, size[1] - width + 1, rng)
    return Crop(top, left, height, width, chance(0.5, rng))


def _crop_side(length: int, side: int, rng: torch.Generator) -> int:
    """Return a random side from `side` to the whole length; the whole if it is shorter."""
    if length <= side:
        return length
    return side + round(float(uniform((), 0.0, 1.0, rng)) * (length - side))


def apply_crop(image: Pixels, crop: Crop, side: int) -> Pixels:
    """Return the rectangle, resized to (side, side, 3) and mirrored."""
    piece = image[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    small = min(crop.height, crop.width) < side
    resized = cv2.resize(
        piece, (side, side), interpolation=cv2.INTER_CUBIC if small else cv2.INTER_AREA
    )
    return np.ascontiguousarray(resized[:, ::-1] if crop.mirrored else resized).astype(np.uint8)


def to_batch(crops: Sequence[Pixels], device: torch.device) -> Tensor:
    """Return crops (side, side, 3) as a batch (B, 3, side, side) in [0, 1] on a device."""
    batch = torch.from_numpy(np.stack(crops))
    if device.type == "cuda":
        batch = batch.pin_memory().to(device, non_blocking=True)
    return batch.permute(0, 3, 1, 2).float() / 255.0


def load_photos(folders: Sequence[Path]) -> Photos:
    """Decode all images in the folders, and read the panoramas (`.hdr`) there.

    Raises:
        NothingToDoError: There is no image of sufficient size.
    """
    files = sorted(p for f in folders for p in f.rglob("*") if p.suffix.lower() in SUFFIXES)
    images = [image for path in files if (image := decode(path)) is not None]
    if not images:
        raise NothingToDoError(
            "no images to train on",
            hint=f"use --photos with a folder of images of at least {SMALLEST} pixels per side",
        )
    return Photos(list(images), load_panoramas(folders).panoramas)


def decode(path: Path) -> NDArray[np.uint8] | None:
    """Return the image at a path; None if it cannot be read or is too small."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None or min(image.shape[:2]) < SMALLEST:
        return None
    return np.asarray(image, np.uint8)
