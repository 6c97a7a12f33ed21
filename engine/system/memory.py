"""How much memory this process may still take, inside a container as well."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

_MIB: Final = 1 << 20
_LEAST: Final = 512 * _MIB
_MOST: Final = 4096 * _MIB

# Limit and use, in bytes, of the group that a container runs in: version 2, then 1.
_GROUPS: Final = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def available_memory() -> int:
    """Return the bytes that can be taken without swapping or being killed."""
    return min([int(psutil.virtual_memory().available), *_group_rooms()])


def default_queue_bytes() -> int:
    """Return the bytes of images in flight when nobody said: a quarter of what is available.

    At least one photograph must fit; more than a few do not make a run faster.
    """
    return min(max(available_memory() // 4, _LEAST), _MOST)


def _group_rooms() -> list[int]:
    rooms = []
    for limit, used in _GROUPS:
        with suppress(OSError, ValueError):  # no such group, or no limit ("max")
            room = int(Path(limit).read_text("ascii")) - int(Path(used).read_text("ascii"))
            rooms.append(max(0, room))
    return rooms
