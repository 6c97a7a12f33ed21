"""How many tiles a GPU takes at once: measured on it once, remembered, and fitted to what is free.

What a run of one tile and a run of two take from the GPU's memory is a line, on which every batch
lies. The line belongs to model, tile, precision and GPU; how much is free, to the moment.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from varfix.engine.errors import DeviceMemoryError
from varfix.engine.system.app_folders import cache_folder
from varfix.engine.system.atomic import write_file
from varfix.onnx.inference.hardware import Gpu, find_gpu
from varfix.onnx.inference.memory_guard import LARGEST_BATCH, SHARE
from varfix.onnx.inference.restorer import OnnxRestorer
from varfix.onnx.inference.runtime import Device

_SMALLEST_MB: Final = 1  # of a tile: less is the driver's rounding


@dataclass(frozen=True)
class Line:
    """Device memory in MB that runs of one and of two tiles take."""

    one: int
    two: int

    def largest(self, free_mb: int) -> int:
        """Return the largest power of two of tiles that fits the free memory, at least 1."""
        each = max(self.two - self.one, _SMALLEST_MB)
        batch = LARGEST_BATCH
        while batch > 1 and self.one + (batch - 1) * each > SHARE * free_mb:
            batch //= 2
        return batch


def tuned_batch(
    restorer: OnnxRestorer, device: Device, look: Callable[[int], Gpu | None] = find_gpu
) -> int:
    """Return how many tiles to run at once on a GPU when nobody said.

    Args:
        restorer: The model, started on it; its own batch is the answer where nothing can be known.
        device: The GPU.
        look: Asks the driver about the GPU of a number.
    """
    gpu = look(device.index)
    if gpu is None or restorer.card.vram_mb:
        return restorer.batch
    key = _key(restorer, gpu)
    line = remembered(key)
    if line is not None:
        return line.largest(gpu.free_mb)
    line = _measured(restorer, lambda: look(device.index), gpu.free_mb)
    if line is None:
        return 1
    remember(key, line)
    return line.largest(gpu.free_mb)


def _measured(restorer: OnnxRestorer, look: Callable[[], Gpu | None], free_mb: int) -> Line | None:
    """Run one tile and two, and see what became of the free memory; None if two do not fit."""
    taken = []
    try:
        for count in (1, 2):
            restorer.set_batch(count)
            _run(restorer, count)
            if restorer.batch < count:  # memory ran out, and the restorer went on by halves
                return None
            gpu = look()
            taken.append(free_mb - gpu.free_mb if gpu else 0)
    except DeviceMemoryError:
        return None
    return Line(*(max(mb, _SMALLEST_MB) for mb in taken))


def _run(restorer: OnnxRestorer, count: int) -> None:
    card, side = restorer.card, restorer.tile
    tiles = np.full((count, side, side, 3), 0.5, np.float32)
    prior = None
    if card.guidance == "image":
        cells = side // card.prior_stride
        prior = np.zeros((count, card.prior_channels, cells, cells), np.float32)
    restorer.restore(tiles, prior)


def _key(restorer: OnnxRestorer, gpu: Gpu) -> str:
    facts = (restorer.card.sha256, restorer.tile, restorer.used.precision, gpu.name)
    return "/".join(map(str, (*facts, restorer.used.provider)))


def book_path() -> Path:
    """Return the file in which lines are remembered."""
    return cache_folder() / "batches.json"


def remembered(key: str) -> Line | None:
    """Return the line of a model on a GPU, if it was measured before."""
    try:
        return Line(**_book()[key])
    except (KeyError, TypeError):
        return None


def remember(key: str, line: Line) -> None:
    """Write a line down; where that is not possible it is measured again next time."""
    path = book_path()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({**_book(), key: asdict(line)}).encode())


def _book() -> dict[str, dict[str, int]]:
    try:
        book = json.loads(book_path().read_text())
    except (OSError, ValueError):
        return {}
    return book if isinstance(book, dict) else {}
