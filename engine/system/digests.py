"""SHA-256 digests of files: whole, or of the first and last MiB."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

_EDGE: Final = 1 << 20  # bytes


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a whole file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def edge_digest(data: bytes) -> str:
    """Return the SHA-256 of the first and last MiB, in hex."""
    return hashlib.sha256(data[:_EDGE] + data[-_EDGE:]).hexdigest()


def edge_digest_of_file(path: Path) -> str:
    """Return the `edge_digest` of a file without reading all of it."""
    with path.open("rb") as file:
        head = file.read(_EDGE)
        file.seek(max(0, file.seek(0, os.SEEK_END) - _EDGE))
        return hashlib.sha256(head + file.read(_EDGE)).hexdigest()


def edge_digest_by_range(size: int, read: Callable[[int, int], bytes]) -> str:
    """Return the `edge_digest` of content that is read in ranges.

    Args:
        size: Bytes of the content.
        read: Returns the bytes from a start to an end.
    """
    head = read(0, min(size, _EDGE))
    tail = read(size - _EDGE, size) if size > _EDGE else head
    return hashlib.sha256(head + tail).hexdigest()
