"""Locks a destination, so that only one run writes to it.

The system releases its lock when the process ends, however it ends. Where a file system has no
locks (some network shares), a file with the owner's process number replaces it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import filelock

from varfix.engine.errors import OutputLockedError
from varfix.engine.system.atomic import remove_stale_parts, translate_os_errors
from varfix.engine.system.state_folder import STATE_FOLDER

_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


@contextmanager
def lock_folder(destination: Path | None) -> Iterator[None]:
    """Lock a destination in the block, and remove the unfinished files of ended runs.

    Args:
        destination: The folder; None locks nothing.

    Raises:
        OutputLockedError: Another run writes there.
        OutputError: The folder cannot be written.
    """
    if destination is None:
        yield
        return
    folder = destination / STATE_FOLDER
    with translate_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with translate_os_errors(folder):
        try:
            lock = _acquired(folder)
        except filelock.Timeout as held:  # an OSError itself, hence inside `translate_os_errors`
            raise OutputLockedError(
                f"{destination}: locked by another varfix process",
                hint=f"wait for it, or name another folder (lock file: {held.lock_file})",
            ) from None
    try:
        remove_stale_parts(destination)
        yield
    finally:
        lock.release()


def _acquired(folder: Path) -> filelock.BaseFileLock:
    """Acquire a lock of a type that the file system supports; raise filelock.Timeout if locked."""
    lock: filelock.BaseFileLock = filelock.FileLock(folder / "lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        # What filelock raises where the file system has no locks (some network file systems).
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        lock = filelock.SoftFileLock(folder / "lock.owner")
        lock.acquire(timeout=0)
    return lock
