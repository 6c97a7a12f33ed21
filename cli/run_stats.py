"""Statistics of a run, counted from its events, and their texts."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from msgspec import UNSET

from varfix.cli.findings_text import counts_text
from varfix.engine.events import (
    Event,
    ItemDone,
    ItemFail,
    ItemJudged,
    ItemProgress,
    ItemSkip,
    ItemStart,
    PlanDone,
    RunEnd,
    RunStart,
)
from varfix.engine.system.counts import counted
from varfix.engine.system.display_names import single_line

_SHOWN_FAILURES: Final = 10
SKIPS: Final = {
    "done": "up to date",
    "stale": "made with other settings",
    "foreign": "not made by varfix",
}


@dataclass
class InProgress:
    """An item in progress: its name, size, and the restored share (0 to 1)."""

    src: str
    width: int
    height: int
    frames: int = 0
    done: float = 0.0
    fps: float | None = None
    eta: float | None = None

    @property
    def pixels(self) -> int:
        """Pixels over all frames."""
        return self.width * self.height * max(1, self.frames)

    @property
    def size(self) -> str:
        """The size as text, with the number of frames of a video."""
        size = f"{self.width}x{self.height}" if self.width else ""
        return f"{size}, {counted(self.frames, 'frame')}" if self.frames else size

    @property
    def pace(self) -> str:
        """Speed and remaining time of a video as text; empty for an image."""
        if self.fps is None:
            return ""
        return f"{self.fps:.2f} fps" + (f", {duration(self.eta)} left" if self.eta else "")


class RunStats:
    """Statistics of one run; thread-safe.

    Attributes:
        items: Images to restore.
        pixels: Pixels in them.
        ok: Images restored.
        failed: Images that failed.
        skips: Images skipped, by reason.
        ignored: Files that are no images or were filtered out.
        failures: The failures, in order.
        busy: Seconds spent in each stage.
        device: Device and precision as text.
        verb: What the run does with an image: `restored` or `judged`.
        end: The last event of the run, or None before it.
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
        self.verb = "restored"
        self.end: RunEnd | None = None
        self._command = ""
        self._finished_pixels = 0
        self._in_progress: dict[int, InProgress] = {}
        self._latest: int | None = None
        self._lock = threading.RLock()
        self._handlers: dict[type, Callable[[Any], None]] = {
            RunStart: self._run_start,
            PlanDone: self._plan,
            ItemStart: self._item_start,
            ItemProgress: self._item_progress,
            ItemDone: self._item_done,
            ItemJudged: self._item_judged,
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
    def count(self) -> str:
        """What is finished, as text: images, or the frames of a single video."""
        current = self.current
        if self._command != "video":
            return f"{self.finished}/{self.items} images"
        if current is None or not current.frames:
            return f"{self.finished}/{self.items} videos"
        return f"{round(current.done * current.frames)}/{current.frames} frames"

    @property
    def pixels_done(self) -> int:
        """Finished pixels, including the restored part of items in progress."""
        with self._lock:
            part = sum(item.pixels * item.done for item in self._in_progress.values())
            return self._finished_pixels + int(part)

    @property
    def current(self) -> InProgress | None:
        """The item in progress that was updated last."""
        with self._lock:
            if self._latest in self._in_progress:
                return self._in_progress[self._latest]
            return next(iter(self._in_progress.values()), None)

    def size_of(self, item: int) -> str:
        """Return the size of an item in progress as text; empty if it is unknown."""
        with self._lock:
            entry = self._in_progress.get(item)
            return entry.size if entry else ""

    def name_of(self, item: int) -> str:
        """Return the name of an item in progress."""
        with self._lock:
            entry = self._in_progress.get(item)
            return entry.src if entry else ""

    def pace(self, seconds: float) -> str:
        """Return speed and remaining time, computed from pixels, not from files.

        Args:
            seconds: Seconds since the start of the run.

        Returns:
            Megapixels per second and time left; empty before anything is restored.
        """
        current = self.current
        if self.items == 1 and current is not None and current.pace:
            # In a resumed video, frames of an earlier run must not count for the speed.
            return current.pace
        done = self.pixels_done
        if not done or seconds <= 0:
            return ""
        rate = done / seconds
        return f"{rate / 1e6:.2f} MP/s, {duration((self.pixels - done) / rate)} left"

    def status(self, seconds: float) -> str:
        """Return the progress in one line, `seconds` after the start of the run."""
        current = self.current
        parts = [
            self.count.replace("/", " of "),
            self.pace(seconds),
            current.src if current else "",
        ]
        return ", ".join(part for part in parts if part)

    def summary(self) -> list[str]:
        """Return the summary of the run in a few lines; empty before `run.end`."""
        if self.end is None:
            return []
        parts = [f"{self.end.ok} {self.verb}"]
        if self.end.skipped:
            reasons = ", ".join(f"{n} {SKIPS.get(why, why)}" for why, n in self.skips.items())
            parts.append(f"{self.end.skipped} skipped" + (f" ({reasons})" if reasons else ""))
        if self.end.failed:
            parts.append(f"{self.end.failed} failed")
        if self.ignored:
            parts.append(f"{counted(self.ignored, 'file')} ignored")
        line = f"{', '.join(parts)} in {duration(self.end.seconds)}"
        speed = self._speed()
        lines = [line + (f" ({speed})" if speed else "")]
        if self.end.applied is not UNSET:
            lead = "treated" if self.verb == "restored" else "would be treated"
            lines.append(f"{lead}: {counts_text(self.end.applied)}")
        return [*lines, *self._failure_lines()]

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
        """Return the failures again; the first ones may have scrolled away."""
        if self.items <= _SHOWN_FAILURES or not self.failures:
            return []
        lines = [f"  {failure.message}" for failure in self.failures[:_SHOWN_FAILURES]]
        more = len(self.failures) - _SHOWN_FAILURES
        return ["failed:", *lines, *([f"  and {more} more"] if more > 0 else [])]

    def _run_start(self, event: RunStart) -> None:
        self.verb = "judged" if event.command == "diagnose" else "restored"
        device = event.device
        self.device = f"{device.used} ({device.provider}, {device.precision})"
        self._command = event.command

    def _plan(self, event: PlanDone) -> None:
        self.items, self.pixels, self.ignored = event.items, event.pixels, event.ignored

    def _item_start(self, event: ItemStart) -> None:
        size = event.width or 0, event.height or 0
        self._in_progress[event.id] = InProgress(single_line(event.src), *size, event.frames or 0)

    def _item_progress(self, event: ItemProgress) -> None:
        if event.id in self._in_progress and event.total:
            entry = self._in_progress[event.id]
            entry.done, entry.fps, entry.eta = event.done / event.total, event.fps, event.eta
            self._latest = event.id

    def _item_done(self, event: ItemDone) -> None:
        self.ok += 1
        self.busy.update(event.stage)
        self._finish(event.id)

    def _item_judged(self, event: ItemJudged) -> None:
        self.ok += 1
        self.busy.update(event.stage)
        self._finished_pixels += event.width * event.height

    def _item_skip(self, event: ItemSkip) -> None:
        self.skips[event.reason] += 1

    def _item_fail(self, event: ItemFail) -> None:
        self.failed += 1
        self.failures.append(event)
        self._finish(event.id)

    def _run_end(self, event: RunEnd) -> None:
        self.end = event

    def _finish(self, item: int) -> None:
        entry = self._in_progress.pop(item, None)
        self._finished_pixels += entry.pixels if entry else 0


def headline(event: RunStart, preset: str) -> str:
    """Return preset, model, and the device that is really used, as text."""
    device = event.device
    where = f"{device.used} ({device.provider}, {device.precision})"
    parts = [f"varfix {event.version}", f"preset {preset}", event.model.name, where]
    return " · ".join([*parts, f"tile {event.tile}", f"batch {event.batch}"])


def duration(seconds: float) -> str:
    """Return a time as text: `4.2 s`, `3:07`, `1:02:45`."""
    if seconds < 60:
        return f"{max(seconds, 0.0):.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
