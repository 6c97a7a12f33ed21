"""One run at a time for one destination."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from varfix.engine.errors import OutputLockedError
from varfix.engine.manifest import FOLDER
from varfix.engine.publish import remove_stale_parts, translated


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
    lock = filelock.FileLock(folder / "lock")
    with translated(folder):
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:  # an OSError itself, so not outside `translated`
            raise OutputLockedError(
                f"{destination}: another varfix is writing here",
                hint="wait for it, or name another folder",
            ) from None
    try:
        remove_stale_parts(destination)
        yield
    finally:
        lock.release()
