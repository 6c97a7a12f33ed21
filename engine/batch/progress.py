"""Progress of an item as events, at most two a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from varfix.engine.events import ItemProgress

Emit = Callable[[ItemProgress], None]
Progress = Callable[[int, int], None]
"""Receives the numbers of finished parts and of all parts."""

_SECONDS_BETWEEN: Final = 0.5


class _Interval:
    """Decides which reports become events: the last one, and others some time apart."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def is_due(self, done: int, total: int) -> bool:
        """Return whether this report becomes an event."""
        now = time.monotonic()
        if done != total and now - self._last < _SECONDS_BETWEEN:
            return False
        self._last = now
        return True


def image_progress(id_: int, emit: Emit) -> Progress:
    """Return a progress function of the tiles of an image."""
    interval = _Interval()

    def report(done: int, total: int) -> None:
        if interval.is_due(done, total):
            emit(ItemProgress(id=id_, done=done, total=total))

    return report


def frame_progress(id_: int, emit: Emit) -> Progress:
    """Return a progress function of the frames of a video, with speed and remaining time.

    The speed is that of this run; frames of an earlier run do not count.
    """
    interval, start = _Interval(), time.monotonic()
    first: int | None = None

    def report(done: int, total: int) -> None:
        nonlocal first
        if first is None:
            first = done - 1
        if not interval.is_due(done, total):
            return
        fps = (done - first) / max(time.monotonic() - start, 1e-6)
        eta = round(max(0, total - done) / fps, 1) if fps > 0 else None
        emit(ItemProgress(id=id_, done=done, total=total, unit="frame", fps=round(fps, 3), eta=eta))

    return report
