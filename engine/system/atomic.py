"""Writes files complete or not at all.

A file is written under a temporary name in the folder of its target, flushed to the disk, then
renamed; the same folder is on the same file system, so a full disk never leaves a broken file under
the final name (cli/README.md).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from varfix.engine.errors import DiskFullError, EncodeError, OutputDeniedError, OutputError
from varfix.engine.system.disk_space import free_bytes, readable_size
from varfix.engine.system.file_times import FileTimes, set_times
from varfix.engine.system.long_names import fitted_name

_PART: Final = re.compile(r"\.varfix-(\d+)\.part$")
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# Errors about the name, not the folder: other results can still be written.
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


class AtomicWriter:
    """Writes results; records its unfinished files, so that they can be removed before an exit."""

    def __init__(self) -> None:
        self._unfinished: set[Path] = set()
        self._lock = threading.Lock()

    def write(self, target: Path, data: bytes, times: FileTimes | None = None) -> None:
        """Write a result, replacing an older file; missing folders are created.

        A link is followed and stays a link. The new file has the mode of the file that it replaces,
        and its owner if the system allows that.

        Args:
            target: The final path.
            data: The whole file.
            times: Times of the file; None = now.

        Raises:
            DiskFullError: The disk is full.
            OutputDeniedError: Access to the folder or file is denied.
            EncodeError: The file system cannot hold a file of this name.
            OutputError: The system refuses for another reason.
        """
        with translate_os_errors(target, len(data)), _translate_name_errors(target):
            target = _followed(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            _refuse_special_file(target)
            with self._tracked(target), replacement(target, times) as part:
                _write(part, data)

    def discard(self) -> None:
        """Remove every unfinished file, before the process exits at once."""
        with self._lock:
            parts = list(self._unfinished)
        for part in parts:
            with suppress(OSError):
                part.unlink(missing_ok=True)

    @contextmanager
    def _tracked(self, target: Path) -> Iterator[None]:
        part = temporary_path(target)
        with self._lock:
            self._unfinished.add(part)
        try:
            yield
        finally:
            with self._lock:
                self._unfinished.discard(part)


@contextmanager
def replacement(target: Path, times: FileTimes | None = None) -> Iterator[Path]:
    """Write a file in the block, which replaces the target when the block succeeds.

    After an error, no file is left. Errors of the operating system pass unchanged.

    Args:
        target: Path in a folder that exists.
        times: Times of the file; None = now.

    Yields:
        The temporary path to write to.
    """
    part = temporary_path(target)
    try:
        yield part
        flush_and_rename(part, target, times)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def write_file(target: Path, data: bytes) -> None:
    """Write a file, complete or not at all; see `replacement`."""
    with replacement(target) as part:
        _write(part, data)


def _write(part: Path, data: bytes) -> None:
    part.write_bytes(data)


def flush_and_rename(part: Path, target: Path, times: FileTimes | None = None) -> None:
    """Flush a written file to the disk, then give it its final name, replacing an older file.

    Args:
        part: On the same file system as `target`.
        target: The final path.
        times: Times of the file; None = now.
    """
    _inherit(part, target)
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    if times is not None:
        # Last: `remove_stale_parts` uses the time to decide whether a part is still written.
        set_times(part, times)
    part.replace(target)


def _inherit(part: Path, target: Path) -> None:
    """Set the owner and mode of a file to those of the file that it will replace, if any."""
    with suppress(OSError):
        old = target.stat()
        if hasattr(os, "chown") and (old.st_uid, old.st_gid) != _owner(part):
            with suppress(OSError):  # only root gives files away
                os.chown(part, old.st_uid, old.st_gid)
        part.chmod(stat.S_IMODE(old.st_mode))


def _owner(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid


def _followed(target: Path) -> Path:
    """Return the target of a link, or the path itself."""
    return Path(os.path.realpath(target)) if target.is_symlink() else target


def other_names(path: Path) -> int:
    """Return how many other hard links a file has; 0 when there is no such file."""
    with suppress(OSError):
        found = path.stat()
        return found.st_nlink - 1 if stat.S_ISREG(found.st_mode) else 0
    return 0


def move_result(part: Path, target: Path, times: FileTimes | None = None) -> None:
    """Give a finished result its final name, replacing an older file.

    Args:
        part: On the same file system as `target`.
        target: The final path.
        times: Times of the file; None = now.

    Raises:
        DiskFullError: The disk is full.
        OutputDeniedError: Access to the folder or file is denied.
        EncodeError: The file system cannot hold a file of this name.
        OutputError: The system refuses for another reason.
    """
    with translate_os_errors(target, part.stat().st_size), _translate_name_errors(target):
        _refuse_special_file(target)
        real = _followed(target)
        same_disk = real.exists() and real.stat().st_dev == part.stat().st_dev
        flush_and_rename(part, real if same_disk else target, times)


def _refuse_special_file(target: Path) -> None:
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise FileExistsError(errno.EEXIST, "a device or pipe has this name")


def temporary_path(target: Path) -> Path:
    """Return the path under which a file is written: `.NAME.varfix-PID.part`, shortened to fit."""
    end = f".varfix-{os.getpid()}.part"
    return target.with_name(fitted_name(f".{target.name}", end))


def remove_stale_parts(folder: Path) -> int:
    """Remove unfinished files of processes that have ended, below `folder`; return their number."""
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
    """Return whether the process `pid` runs and can have changed a file at that time.

    Process numbers are reused, in containers even at once: a process that started after the last
    change of a file does not write it.
    """
    try:
        return psutil.Process(pid).create_time() <= changed + _CLOCK_SLACK
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


@contextmanager
def _translate_name_errors(target: Path) -> Iterator[None]:
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
def translate_os_errors(target: Path, size: int = 0) -> Iterator[None]:
    """Convert operating system errors about `target` to errors of varfix.

    Args:
        target: The file.
        size: Its size in bytes, for the message about a full disk.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _FULL:
            raise _disk_full(target.parent, size, error) from error
        if error.errno in _DENIED:
            raise OutputDeniedError(f"{target}: {reason.lower()}") from error
        raise OutputError(f"{target}: {reason}") from error


def _disk_full(folder: Path, size: int, error: OSError) -> DiskFullError:
    """Return the error for a file of `size` bytes and a full disk; 0 for an unknown size."""
    figures = [_free(folder, error)]
    if size:
        figures.append(f"next file needs about {readable_size(size)}")
    known = ", ".join(figure for figure in figures if figure)
    return DiskFullError(
        f"{folder}: no space left" + (f" ({known})" if known else ""),
        hint="free space and run the same command again",
    )


def _free(folder: Path, error: OSError) -> str:
    """Return what the disk is short of: a quota, the number of files, or bytes."""
    if error.errno == errno.EDQUOT:
        return "disk quota exceeded"
    with suppress(OSError):
        files = os.statvfs(folder) if hasattr(os, "statvfs") else None
        if files is not None and files.f_files and not files.f_favail:
            return "no inodes left"
        return f"{readable_size(free_bytes(folder))} free"
    return ""
