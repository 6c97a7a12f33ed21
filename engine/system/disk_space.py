"""Checks free disk space before a large file is written."""

from __future__ import annotations

import shutil
from pathlib import Path

from varfix.engine.errors import DiskFullError


def free_bytes(folder: Path) -> int:
    """Return the free bytes of the file system of a folder that exists."""
    return shutil.disk_usage(folder).free


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
            f"{folder}: no space left ({free / 1e9:.1f} GB free, about {size / 1e9:.1f} GB needed)",
            hint="free space and run the same command again",
        )
