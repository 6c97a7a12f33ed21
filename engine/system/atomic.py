"""Puts finished files in place: complete or not at all.

A result is written under a hidden name beside its destination, flushed to the disk, then renamed;
the same folder is the same file system, so a full disk never leaves a broken final file
(cli/README.md).
"""

from __future__ import annotations

import errno
import os
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from varfix.engine.errors import DiskFullError, EncodeError, OutputDeniedError, OutputError

_PART: Final = re.compile(r"\.varfix-(\d+)\.part$")
_LONGEST_NAME: Final = 255
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# The name is the trouble, not the place: other images can still be written.
_UNNAMEABLE: Final = frozenset(
    {
        errno.ENAMETOOLONG,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.EEXIST,
        errno.ENOTEMPTY,
        errno.EINVAL,
        errno.EILSEQ,
    }
)
# Seconds by which the clocks of files and of processes may differ.
_CLOCK_SLACK: Final = 5.0


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
            EncodeError: There can be no file of this name: too long, or a folder is in its place.
            OutputError: The system refuses for another reason.
        """
        part = part_path(target)
        with translated(target, len(data)), _named(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and not (target.is_file() or target.is_dir()):
                raise FileExistsError(errno.EEXIST, "a device or pipe has this name")
            with self._lock:
                self._parts.add(part)
            try:
                _write(part, data)
                part.replace(target)
            finally:
                self._forget(part)

    def move(self, part: Path, target: Path) -> None:
        """Put a finished file in its place, replacing what is there.

        Args:
            part: on the same file system as `target`.
            target: its final name.

        Raises:
            DiskFullError: No space left.
            OutputDeniedError: The folder or file may not be written.
            EncodeError: There can be no file of this name.
            OutputError: The system refuses for another reason.
        """
        with translated(target, part.stat().st_size), _named(target):
            if target.exists() and not (target.is_file() or target.is_dir()):
                raise FileExistsError(errno.EEXIST, "a device or pipe has this name")
            with part.open("rb+") as file:
                os.fsync(file.fileno())
            part.replace(target)

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
    name = target.name
    if _size(name) > _LONGEST_NAME - 1 - len(suffix):
        # The checksum keeps apart two long names that are cut to the same beginning.
        suffix = f"-{zlib.crc32(os.fsencode(name)):08x}{suffix}"
    while _size(name) > _LONGEST_NAME - 1 - len(suffix):
        name = name[:-1]  # whole characters: some file systems refuse torn ones
    return target.with_name(f".{name}{suffix}")


def _size(name: str) -> int:
    return len(os.fsencode(name))


def remove_stale_parts(folder: Path) -> int:
    """Remove unfinished files that dead processes left below `folder`; returns how many."""
    removed = 0
    for path in folder.rglob(".*.part"):
        match = _PART.search(path.name)
        if match:
            with suppress(OSError):
                if not _writing(int(match[1]), path.stat().st_mtime):
                    path.unlink()
                    removed += 1
    return removed


def _writing(pid: int, changed: float) -> bool:
    """Whether the process `pid` lives and can have changed a file at that time.

    Numbers are used again, in containers even at once: a process that started after the last
    change of a file is not the one that writes it.
    """
    try:
        return psutil.Process(pid).create_time() <= changed + _CLOCK_SLACK
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


@contextmanager
def _named(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNNAMEABLE:
            raise
        reason = (error.strerror or str(error)).lower()
        raise EncodeError(
            f"cannot be written as {target.name} ({reason})", hint="give it another name"
        ) from error


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
        files = os.statvfs(folder) if hasattr(os, "statvfs") else None
        if files is not None and files.f_files and not files.f_favail:
            return "its file system can hold no more files, "
        return f"{psutil.disk_usage(os.fspath(folder)).free / 1e6:.1f} MB free, "
    return ""
