"""Puts finished files in place: complete or not at all.

A result is written under a hidden name beside its destination, flushed to the disk, then renamed;
the same folder is the same file system, so a full disk never leaves a broken final file
(design/cli.md, section 4).
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from varfix.engine.errors import DiskFullError, OutputDeniedError, OutputError

_PART: Final = re.compile(r"\.varfix-(\d+)\.part$")
_LONGEST_NAME: Final = 255
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class Publisher:
    """Writes results; knows its unfinished ones, so that they can be dropped in a hurry."""

    def __init__(self) -> None:
        self._parts: set[Path] = set()
        self._lock = threading.Lock()

    def publish(self, target: Path, data: bytes) -> None:
        """Write `data` to `target`, replacing what is there; folders are made as needed.

        Raises:
            DiskFullError: No space left.
            OutputDeniedError: The folder or file may not be written.
            OutputError: The system refuses for another reason.
        """
        part = part_path(target)
        with translated(target, len(data)):
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                self._parts.add(part)
            try:
                _write(part, data)
                part.replace(target)
            finally:
                self._forget(part)

    def drop(self) -> None:
        """Remove every unfinished file; for leaving at once."""
        with self._lock:
            parts = list(self._parts)
        for part in parts:
            self._forget(part)

    def _forget(self, part: Path) -> None:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        with self._lock:
            self._parts.discard(part)


def _write(part: Path, data: bytes) -> None:
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def part_path(target: Path) -> Path:
    """The hidden name under which a file is written: `.NAME.varfix-PID.part`, shortened to fit."""
    suffix = f".varfix-{os.getpid()}.part"
    # The thread keeps apart two long names that are cut to the same beginning.
    name = os.fsencode(target.name)
    room = _LONGEST_NAME - 1 - len(suffix)
    if len(name) > room:
        suffix = f"-{threading.get_ident() % 100_000}{suffix}"
        name = name[: _LONGEST_NAME - 1 - len(suffix)]
    return target.with_name(f".{os.fsdecode(name)}{suffix}")


def remove_stale_parts(folder: Path) -> int:
    """Remove unfinished files that dead processes left below `folder`; returns how many."""
    removed = 0
    for path in folder.rglob(".*.part"):
        match = _PART.search(path.name)
        if match and not psutil.pid_exists(int(match[1])):
            with suppress(OSError):
                path.unlink()
                removed += 1
    return removed


@contextmanager
def translated(target: Path, size: int = 0) -> Iterator[None]:
    """Turn the system's refusals to write `target` into varfix's errors."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise DiskFullError(
                f"{target.parent}: no space left ({_free(target.parent)}next file needs about"
                f" {size / 1e6:.1f} MB)",
                hint="free space and run the same command again",
            ) from error
        if error.errno in _DENIED:
            raise OutputDeniedError(f"{target}: {reason.lower()}") from error
        raise OutputError(f"{target}: {reason}") from error


def _free(folder: Path) -> str:
    with suppress(OSError):
        return f"{psutil.disk_usage(os.fspath(folder)).free / 1e6:.1f} MB free, "
    return ""
