"""One run at a time for one destination.

The system's own lock falls with its process, however that ends. Where a file system has none (some
network shares), a file with the owner's process number takes its place.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import filelock

from varfix.engine.errors import OutputLockedError
from varfix.engine.storage.manifest import FOLDER
from varfix.engine.system.atomic import remove_stale_parts, translated

_NO_LOCKS: Final = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


@contextmanager
def exclusive(destination: Path | None) -> Iterator[None]:
    """Hold a destination for this run alone, and clear what dead runs left there.

    Raises:
        OutputLockedError: Another run writes there.
        OutputError: The folder cannot be written.
    """
    if destination is None:
        yield
        return
    folder = destination / FOLDER
    with translated(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with translated(folder):
        try:
            lock = _acquired(folder)
        except filelock.Timeout as held:  # an OSError itself, so not outside `translated`
            raise OutputLockedError(
                f"{destination}: another varfix is writing here",
                hint=f"wait for it, or name another folder ({held.lock_file} is its mark)",
            ) from None
    try:
        remove_stale_parts(destination)
        yield
    finally:
        lock.release()


def _acquired(folder: Path) -> filelock.BaseFileLock:
    """Take the lock at once (filelock.Timeout), in the way that the file system offers."""
    lock: filelock.BaseFileLock = filelock.FileLock(folder / "lock", fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        lock = filelock.SoftFileLock(folder / "lock.owner")
        lock.acquire(timeout=0)
    return lock
