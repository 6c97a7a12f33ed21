"""Detects invalid results and out-of-memory errors; estimates the batch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import numpy as np

from varfix.engine.errors import DeviceMemoryError
from varfix.engine.models.card import ModelCard
from varfix.onnx.inference.hardware import find_gpu
from varfix.onnx.inference.runtime import CPU, Device

# ONNX Runtime has no exception class for it; these are messages of its arenas, CUDA, cuDNN,
# cuBLAS, TensorRT and the C++ library.
_OUT_OF_MEMORY: Final = re.compile(
    r"failed to allocate memory|bfc_?arena|out of memory|out_of_memory|outofmemory"
    r"|cuda failure 2\b|_alloc_failed|bad_alloc|bad allocation|insufficient memory",
    re.IGNORECASE,
)
SHARE: Final = 0.8  # of the free memory: the driver, the desktop and fragments need the rest
LARGEST_BATCH: Final = 32
_UNKNOWN_BATCH: Final = 4


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error of the runtime means out of memory."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def bad_tiles(tiles: np.ndarray) -> np.ndarray:
    """Return the indices of the (N, ...) float arrays that hold NaN or infinity."""
    finite = np.isfinite(tiles).all(axis=tuple(range(1, tiles.ndim)))
    return np.flatnonzero(~finite)


def estimated_batch(card: ModelCard, device: Device, tile: int) -> int:
    """Return the number of tiles of edge `tile` per run when none is requested.

    It is 1 on a CPU, which all cores share. On a GPU it is the largest power of two that fits in
    the free memory, if card and driver state the sizes.
    """
    if device == CPU:
        return 1
    gpu = find_gpu(device.index)
    if gpu is None or not card.vram_mb:
        return _UNKNOWN_BATCH
    batch = LARGEST_BATCH
    while batch > 1 and needed_mb(card, batch, tile) > SHARE * gpu.free_mb:
        batch //= 2
    return batch


def needed_mb(card: ModelCard, batch: int, tile: int) -> float:
    """Return the device memory in MB of a run, interpolated from the measurements of the card."""
    known = _measured(card.vram_mb)
    (small, low), (large, high) = known[0], known[-1]
    slope = (high - low) / (large - small) if large > small else low
    return (low + slope * (batch - small)) * (tile / card.tile) ** 2


def _measured(vram_mb: Mapping[str, int]) -> list[tuple[int, int]]:
    return sorted((int(batch), mb) for batch, mb in vram_mb.items())


def memory_error(card: ModelCard, device: Device, tile: int) -> DeviceMemoryError:
    """Return the error for a device that is out of memory with a single tile."""
    if device == CPU:
        return DeviceMemoryError(
            f"out of memory at batch 1 (tile {tile})",
            hint="close other programs, or use a smaller tile: --set tile.size=256",
        )
    parts = [f"tile {tile}"]
    if card.vram_mb:
        parts.append(f"{needed_mb(card, 1, tile) / 1000:.1f} GB needed")
    gpu = find_gpu(device.index)
    if gpu is not None:
        parts.append(f"{gpu.free_mb / 1000:.1f} GB free")
    return DeviceMemoryError(
        f"out of GPU memory at batch 1 ({', '.join(parts)})",
        hint="close other programs, or use --device cpu",
    )
