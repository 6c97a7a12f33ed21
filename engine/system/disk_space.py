"""Checks free disk space before a large file is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from varfix.engine.errors import DiskFullError


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the file system of a folder that exists."""
    return shutil.disk_usage(folder).free


def readable_size(size: int) -> str:
    """Return a number of bytes with the unit that suits it, as disks are labeled."""
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} bytes"


def require_disk_space(folder: Path, size: int) -> None:
    """Raise if fewer than `size` bytes are free.

    Args:
        folder: A folder that exists.
        size: Bytes that will be written.

    Raises:
        DiskFullError: Too little space is left.
    """
    free = free_bytes(folder)
    if free < size:
        raise DiskFullError(
            f"{folder}: no space left ({readable_size(free)} free,"
            f" about {readable_size(size)} needed)",
            hint="free space and run the same command again",
        )
