"""Measures the batch for a GPU once per model, tile and precision, and caches the measurement.

Memory grows linearly with the batch, so runs of one and of two tiles suffice.
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

_SMALLEST_MB: Final = 1  # per tile; less is rounding of the driver


@dataclass(frozen=True)
class MemoryLine:
    """Device memory in MB of runs with one tile, and with two tiles."""

    one: int
    two: int

    def largest(self, free_mb: int) -> int:
        """Return the largest power of two of tiles that fits the free memory, at least 1."""
        each = max(self.two - self.one, _SMALLEST_MB)
        batch = LARGEST_BATCH
        while batch > 1 and self.one + (batch - 1) * each > SHARE * free_mb:
            batch //= 2
        return batch


def measured_batch(
    restorer: OnnxRestorer, device: Device, look: Callable[[int], Gpu | None] = find_gpu
) -> int:
    """Return the number of tiles per run on a GPU when none is requested.

    Args:
        restorer: The model on that GPU; its batch is returned if memory cannot be measured.
        device: The GPU.
        look: Returns the state of the GPU with an index.
    """
    gpu = look(device.index)
    if gpu is None or restorer.card.vram_mb:
        return restorer.batch
    key = _key(restorer, gpu)
    line = load_line(key)
    if line is not None:
        return line.largest(gpu.free_mb)
    line = _measured(restorer, lambda: look(device.index), gpu.free_mb)
    if line is None:
        return 1
    save_line(key, line)
    return line.largest(gpu.free_mb)


def _measured(
    restorer: OnnxRestorer, look: Callable[[], Gpu | None], free_mb: int
) -> MemoryLine | None:
    """Measure the memory of runs with one and two tiles; None if two tiles do not fit."""
    taken = []
    try:
        for count in (1, 2):
            restorer.set_batch(count)
            _run(restorer, count)
            if restorer.batch < count:  # out of memory; the restorer has reduced its batch
                return None
            gpu = look()
            taken.append(free_mb - gpu.free_mb if gpu else 0)
    except DeviceMemoryError:
        return None
    return MemoryLine(*(max(mb, _SMALLEST_MB) for mb in taken))


def _run(restorer: OnnxRestorer, count: int) -> None:
    card, side = restorer.card, restorer.tile
    tiles = np.full((count, side, side, 3), 0.5, np.float32)
    prior = None
    if card.guidance == "image":
        cells = side // card.prior_stride
        prior = np.zeros((count, card.prior_channels, cells, cells), np.float32)
    restorer.restore(tiles, prior)


def _key(restorer: OnnxRestorer, gpu: Gpu) -> str:
    parts = (restorer.card.sha256, restorer.tile, restorer.used.precision, gpu.name)
    return "/".join(map(str, (*parts, restorer.used.provider)))


def measurements_path() -> Path:
    """Return the file of cached measurements."""
    return cache_folder() / "batches.json"


def load_line(key: str) -> MemoryLine | None:
    """Return the cached measurement of a model on a GPU, or None."""
    try:
        return MemoryLine(**_measurements()[key])
    except (KeyError, TypeError):
        return None


def save_line(key: str, line: MemoryLine) -> None:
    """Cache a measurement, if the cache folder is writable."""
    path = measurements_path()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, json.dumps({**_measurements(), key: asdict(line)}).encode())


def _measurements() -> dict[str, dict[str, int]]:
    try:
        cached = json.loads(measurements_path().read_text())
    except (OSError, ValueError):
        return {}
    return cached if isinstance(cached, dict) else {}
