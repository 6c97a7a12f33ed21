"""Reads source files, with checks that they are files and do not change meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Final

from varfix.engine.errors import DecodeUnsupportedError, SourceReadError

_READ: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def read_file(path: Path, limit: int | None = None) -> tuple[os.stat_result, bytes]:
    """Return a file's identity and its bytes.

    Args:
        path: The file.
        limit: Most bytes that it may have, so that it does not fill the memory; None = any.

    Raises:
        SourceReadError: It is missing, access is denied, or it changed while it was read.
        DecodeUnsupportedError: It is far larger than its image.
    """
    with open_source(path) as file:
        stat = os.fstat(file.fileno())
        if limit is not None and stat.st_size > limit:
            raise _oversized(stat.st_size)
        data = file.read(stat.st_size + 1)
        after = os.fstat(file.fileno())
    if (after.st_size, after.st_mtime_ns) != (stat.st_size, stat.st_mtime_ns):
        raise SourceReadError("changed while it was read", hint="run the same command again")
    return stat, data


@contextmanager
def open_source(path: Path) -> Iterator[BinaryIO]:
    """Open a file; translate the system's errors, also those inside the block.

    Raises:
        SourceReadError: It is missing, access is denied, or it is not a file.
    """
    try:
        # Non-blocking: a pipe that has replaced the file since it was found must not block the run.
        with open(os.open(path, _READ), "rb") as file:  # noqa: PTH123 (a descriptor)
            if not S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SourceReadError("cannot be read (not a file)")
            yield file
    except OSError as error:
        raise SourceReadError(
            f"cannot be read ({(error.strerror or str(error)).lower()})"
        ) from error


def _oversized(size: int) -> DecodeUnsupportedError:
    return DecodeUnsupportedError(
        f"a file of {size / 1e6:.0f} MB is too large for its image",
        hint="save the image again without the data attached to it",
    )
