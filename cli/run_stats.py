"""What has happened so far in a run, counted from its events, and how to say it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from varfix.engine.events import (
    Event,
    ItemDone,
    ItemFail,
    ItemProgress,
    ItemSkip,
    ItemStart,
    PlanDone,
    RunEnd,
    RunStart,
)
from varfix.engine.system.display_names import single_line

_SHOWN_FAILURES: Final = 10
SKIPS: Final = {
    "done": "already done",
    "stale": "made with other settings",
    "foreign": "not made by varfix",
}


@dataclass
class Flying:
    """An image or clip in work: its name, size, and how much of it is restored (0 to 1)."""

    src: str
    width: int
    height: int
    frames: int = 0
    done: float = 0.0
    fps: float | None = None
    eta: float | None = None

    @property
    def pixels(self) -> int:
        """Its weight in the run."""
        return self.width * self.height * max(1, self.frames)

    @property
    def size(self) -> str:
        """Its size as people read it, with the number of frames of a clip."""
        size = f"{self.width}x{self.height}" if self.width else ""
        return f"{size}, {self.frames} frames" if self.frames else size

    @property
    def pace(self) -> str:
        """How fast a clip's frames are made, and how long it will last; nothing for an image."""
        if self.fps is None:
            return ""
        return f"{self.fps:.2f} fps" + (f", {duration(self.eta)} left" if self.eta else "")


class Tally:
    """Counts of one run; safe to feed and to read from several threads.

    Attributes:
        items: Images to restore.
        pixels: Pixels in them.
        ok: Images restored.
        failed: Images that could not be.
        skips: Images skipped, by reason.
        ignored: Files that are no images or were filtered out.
        failures: What failed, in order.
        busy: Seconds spent in each stage.
        device: The device line: where it runs and in which precision.
        end: The run's last event, once it has come.
    """

    def __init__(self) -> None:
        self.items = 0
        self.pixels = 0
        self.ok = 0
        self.failed = 0
        self.skips: Counter[str] = Counter()
        self.ignored = 0
        self.failures: list[ItemFail] = []
        self.busy: Counter[str] = Counter()
        self.device = ""
        self.end: RunEnd | None = None
        self._finished_pixels = 0
        self._flying: dict[int, Flying] = {}
        self._latest: int | None = None
        self._lock = threading.RLock()
        self._handlers: dict[type, Callable[[Any], None]] = {
            RunStart: self._run_start,
            PlanDone: self._plan,
            ItemStart: self._item_start,
            ItemProgress: self._item_progress,
            ItemDone: self._item_done,
            ItemSkip: self._item_skip,
            ItemFail: self._item_fail,
            RunEnd: self._run_end,
        }

    def __call__(self, event: Event) -> None:
        """Count `event`."""
        with self._lock:
            handler = self._handlers.get(type(event))
            if handler is not None:
                handler(event)

    @property
    def finished(self) -> int:
        """Images restored or failed."""
        return self.ok + self.failed

    @property
    def pixels_done(self) -> int:
        """Pixels finished, counting the restored part of images in work."""
        with self._lock:
            part = sum(one.pixels * one.done for one in self._flying.values())
            return self._finished_pixels + int(part)

    @property
    def current(self) -> Flying | None:
        """The image that moved last among those in work."""
        with self._lock:
            if self._latest in self._flying:
                return self._flying[self._latest]
            return next(iter(self._flying.values()), None)

    def size_of(self, item: int) -> str:
        """Return the size of an image in work as text, or nothing if it is unknown."""
        with self._lock:
            one = self._flying.get(item)
            return one.size if one else ""

    def name_of(self, item: int) -> str:
        """Return the name of an image in work."""
        with self._lock:
            one = self._flying.get(item)
            return one.src if one else ""

    def pace(self, seconds: float) -> str:
        """Say how fast the run is and how long it will last, by pixels and not by files.

        Args:
            seconds: Since the run's start.

        Returns:
            Megapixels per second and time left, or nothing as long as nothing is restored.
        """
        current = self.current
        if self.items == 1 and current is not None and current.pace:
            # A clip that is gone on with: what an earlier run has done says nothing of the speed.
            return current.pace
        done = self.pixels_done
        if not done or seconds <= 0:
            return ""
        rate = done / seconds
        return f"{rate / 1e6:.2f} MP/s, {duration((self.pixels - done) / rate)} left"

    def status(self, seconds: float) -> str:
        """Say in one line how far the run is, `seconds` after its start."""
        current = self.current
        parts = [
            f"{self.finished} of {self.items} images",
            self.pace(seconds),
            current.src if current else "",
        ]
        return ", ".join(part for part in parts if part)

    def summary(self) -> list[str]:
        """Say in a few lines how the run ended; empty before `run.end`."""
        if self.end is None:
            return []
        parts = [f"{self.end.ok} restored"]
        if self.end.skipped:
            reasons = ", ".join(f"{n} {SKIPS.get(why, why)}" for why, n in self.skips.items())
            parts.append(f"{self.end.skipped} skipped" + (f" ({reasons})" if reasons else ""))
        if self.end.failed:
            parts.append(f"{self.end.failed} failed")
        if self.ignored:
            parts.append(f"{self.ignored} {'file' if self.ignored == 1 else 'files'} ignored")
        line = f"{', '.join(parts)} in {duration(self.end.seconds)}"
        speed = self._speed()
        return [line + (f" ({speed})" if speed else ""), *self._failure_lines()]

    def _speed(self) -> str:
        assert self.end is not None
        if not self._finished_pixels or self.end.seconds <= 0:
            return ""
        parts = [f"{self._finished_pixels / self.end.seconds / 1e6:.2f} MP/s"]
        busy = ", ".join(f"{stage} {share:.0%}" for stage, share in self.end.busy.items())
        if busy:
            parts.append(f"busy: {busy}")
        return "; ".join(parts)

    def _failure_lines(self) -> list[str]:
        """Repeat failures that may have scrolled away."""
        if self.items <= _SHOWN_FAILURES or not self.failures:
            return []
        lines = [f"  {one.message}" for one in self.failures[:_SHOWN_FAILURES]]
        more = len(self.failures) - _SHOWN_FAILURES
        return ["Failed:", *lines, *([f"  and {more} more"] if more > 0 else [])]

    def _run_start(self, event: RunStart) -> None:
        device = event.device
        self.device = f"{device.used} ({device.provider}, {device.precision})"

    def _plan(self, event: PlanDone) -> None:
        self.items, self.pixels, self.ignored = event.items, event.pixels, event.ignored

    def _item_start(self, event: ItemStart) -> None:
        size = event.width or 0, event.height or 0
        self._flying[event.id] = Flying(single_line(event.src), *size, event.frames or 0)

    def _item_progress(self, event: ItemProgress) -> None:
        if event.id in self._flying and event.total:
            one = self._flying[event.id]
            one.done, one.fps, one.eta = event.done / event.total, event.fps, event.eta
            self._latest = event.id

    def _item_done(self, event: ItemDone) -> None:
        self.ok += 1
        self.busy.update(event.stage)
        self._land(event.id)

    def _item_skip(self, event: ItemSkip) -> None:
        self.skips[event.reason] += 1

    def _item_fail(self, event: ItemFail) -> None:
        self.failed += 1
        self.failures.append(event)
        self._land(event.id)

    def _run_end(self, event: RunEnd) -> None:
        self.end = event

    def _land(self, item: int) -> None:
        one = self._flying.pop(item, None)
        self._finished_pixels += one.pixels if one else 0


def headline(event: RunStart, preset: str) -> str:
    """Say what runs where: the truth, after the model was loaded."""
    device = event.device
    where = f"{device.used} ({device.provider}, {device.precision})"
    parts = [f"varfix {event.version}", f"preset {preset}", event.model.name, where]
    return " · ".join([*parts, f"tile {event.tile}", f"batch {event.batch}"])


def duration(seconds: float) -> str:
    """Return a time as people read it: `4.2 s`, `3:07`, `1:02:45`."""
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
