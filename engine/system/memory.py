"""Measures the memory that this process may still use, also inside a container."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

_MIB: Final = 1 << 20
_LEAST: Final = 512 * _MIB
_MOST: Final = 4096 * _MIB

# Files with limit and usage, in bytes, of a container's control group: version 2, then 1.
_GROUPS: Final = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def available_memory() -> int:
    """Return how many bytes the process can allocate without swapping or reaching its limit."""
    return min([int(psutil.virtual_memory().available), *_container_limits()])


def default_queue_bytes() -> int:
    """Return the default limit of images in memory, in bytes: a quarter of the available memory.

    At least one image of a camera must fit; more than a few do not make a run faster.
    """
    return min(max(available_memory() // 4, _LEAST), _MOST)


def _container_limits() -> list[int]:
    limits = []
    for limit, used in _GROUPS:
        with suppress(OSError, ValueError):  # no such group, or no limit ("max")
            free = int(Path(limit).read_text("ascii")) - int(Path(used).read_text("ascii"))
            limits.append(max(0, free))
    return limits
