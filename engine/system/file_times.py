"""Reads and sets times of files: a result gets the times of its source.

The time of creation can be set on Windows, by a call that Python lacks, and on macOS and BSD, where
an earlier time of modification moves it back. It cannot be set on Linux.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

# Windows counts steps of 100 ns from 1601.
_WINDOWS_STEP: Final = 100
_WINDOWS_EPOCH: Final = 11_644_473_600 * 10**9 // _WINDOWS_STEP


@dataclass(frozen=True, slots=True)
class FileTimes:
    """Times of a file in nanoseconds since 1970.

    Attributes:
        modified: Last change of the content.
        created: Creation; None if the system does not record it.
    """

    modified: int
    created: int | None = None


class _Modified(Protocol):
    @property
    def st_mtime_ns(self) -> int: ...


def times_of(stat: _Modified) -> FileTimes:
    """Return the times in a file's `os.stat_result`, or in the version of an object."""
    created: int | None = getattr(stat, "st_birthtime_ns", None)
    if created is None and hasattr(stat, "st_birthtime"):
        created = int(stat.st_birthtime * 1e9)
    if created is None and sys.platform == "win32":
        created = getattr(stat, "st_ctime_ns", None)  # until Python 3.11, the time of creation
    return FileTimes(stat.st_mtime_ns, created)


def set_times(path: Path, times: FileTimes) -> None:
    """Set the times of a file, as far as its file system supports them."""
    with suppress(OSError, OverflowError):
        accessed = path.stat().st_atime_ns
        if times.created is not None:
            _set_created(path, times.created)
        os.utime(path, ns=(accessed, times.modified))


def _set_created(path: Path, created: int) -> None:
    if sys.platform == "win32":
        import ctypes
        from ctypes import wintypes

        steps = created // _WINDOWS_STEP + _WINDOWS_EPOCH
        moment = wintypes.FILETIME(steps & 0xFFFFFFFF, steps >> 32)
        kernel = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel.CreateFileW.restype = wintypes.HANDLE
        # FILE_WRITE_ATTRIBUTES, shared with everybody, OPEN_EXISTING.
        handle = wintypes.HANDLE(kernel.CreateFileW(str(path), 0x100, 7, None, 3, 0, None))
        kernel.SetFileTime(handle, ctypes.byref(moment), None, None)
        kernel.CloseHandle(handle)
    else:
        os.utime(path, ns=(created, created))
