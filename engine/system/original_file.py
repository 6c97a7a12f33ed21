"""Keeps a second name or a copy of a file, and moves it back, with no moment at which it is lost.

A file is never absent: the copy exists under its final name, complete and flushed, before the file
is replaced, and the file is back before the copy is removed.
"""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from contextlib import suppress
from pathlib import Path

from varfix.engine.system.atomic import temporary_path
from varfix.engine.system.file_times import set_times, times_of


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where the file systems have no hard links.

    Errors of the operating system pass unchanged.

    Args:
        source: The file; a link is followed.
        target: The new name; missing folders are created.

    Raises:
        FileExistsError: `target` exists.
    """
    source = Path(os.path.realpath(source))
    _create_folder(target.parent)
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        # Another disk, or no hard links: the error of the copy says if something else is wrong.
        if target.exists():
            raise FileExistsError(errno.EEXIST, "exists", os.fspath(target)) from None
        _copy(source, target)
    flush_folder(target.parent)


def move_back(kept: Path, target: Path) -> None:
    """Move a file to its earlier name, replacing what is there, with its times and mode.

    Errors of the operating system pass unchanged.

    Args:
        kept: The file.
        target: Its earlier name; a link is followed and stays a link.
    """
    target = Path(os.path.realpath(target))
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_same_file(kept, target):
        kept.unlink()  # a rename between two names of one file does nothing
        return
    try:
        kept.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _copy(kept, target)
        flush_folder(target.parent)
        kept.unlink()
    flush_folder(target.parent)


def has_same_content(first: Path, second: Path) -> bool:
    """Return whether two files have the same bytes; False if one cannot be read."""
    with suppress(OSError):
        return is_same_file(first, second) or filecmp.cmp(first, second, shallow=False)
    return False


def is_same_file(first: Path, second: Path) -> bool:
    """Return whether two paths lead to one file; False if one leads nowhere."""
    with suppress(OSError):
        return first.samefile(second)
    return False


def flush_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can."""
    if os.name == "nt":
        return
    with suppress(OSError):  # some network shares refuse
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _create_folder(folder: Path) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        flush_folder(path.parent)


def _copy(source: Path, target: Path) -> None:
    """Copy a file, complete or not at all, with times, mode, attributes and, if allowed, owner."""
    part = temporary_path(target)
    try:
        shutil.copyfile(source, part)
        stat = source.stat()
        if hasattr(os, "chown"):
            with suppress(OSError):  # only root gives files away
                os.chown(part, stat.st_uid, stat.st_gid)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        shutil.copystat(source, part)
        set_times(part, times_of(stat))
        part.replace(target)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
