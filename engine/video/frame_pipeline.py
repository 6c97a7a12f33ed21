"""Frames from a source through the model into a sink: three stages that work at the same time.

Decoding and encoding have a thread each, restoring is on the caller's; only a few frames wait
between them, however long the clip.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from varfix.engine.errors import Interrupted
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.settings.types import Settings
from varfix.engine.system.background import Ahead, Behind
from varfix.engine.system.memory import automatic_queue
from varfix.engine.video.clip import Clip, Frame, Layout, Samples
from varfix.engine.video.color import YcbcrConverter
from varfix.engine.video.deflicker import DeflickerSettings, deflicker

Floats = npt.NDArray[np.float32]

_ENDLESS: Final = 1 << 62
_MOST_WAITING: Final = 16
# Bytes per pixel of a frame that waits: its samples, and RGB in floats.
_BYTES_PER_PIXEL: Final = 18


def _quiet(code: str, text: str) -> None:
    """Hear a warning, and tell nobody."""


@dataclass(frozen=True)
class ClipCallbacks:
    """How a clip's run meets the rest of the program.

    Attributes:
        stopped: once true, the run ends as soon as it can.
        progress: told frames done in all, and how many there are or will be.
        warn: told by code and text of what stops nothing.
        publish: given the finished file, to move it to its place.
    """

    stopped: Callable[[], bool] = lambda: False
    progress: Callable[[int, int], None] = lambda done, total: None
    warn: Callable[[str, str], None] = _quiet
    publish: Callable[[Path], None] = lambda part: None


@dataclass
class StageTimes:
    """Seconds of work in each stage, and frames done."""

    seconds: dict[str, float] = field(default_factory=dict)
    frames: int = 0

    def timed(self, stage: str, since: float, without: float = 0.0) -> None:
        """Count the time since a moment of `time.monotonic`, less the seconds of something else."""
        lasted = time.monotonic() - since - without
        self.seconds[stage] = self.seconds.get(stage, 0.0) + lasted


class FrameSink(Protocol):
    """Takes restored frames, in order, on a thread of its own."""

    def add(self, frame: Frame, planes: tuple[Samples, ...]) -> None:
        """Take a frame: as it was, and its new samples."""
        ...


@dataclass(frozen=True)
class FrameStreamContext:
    """What a stream of frames passes through.

    Attributes:
        layout: of all frames, those that come in and those that go out.
        clip: where they come from.
        hooks: to the rest of the program.
        spent: counts.
    """

    layout: Layout
    clip: Clip
    hooks: ClipCallbacks
    spent: StageTimes

    @property
    def depth(self) -> int:
        """How many frames may wait between two stages."""
        cost = self.layout.width * self.layout.height * _BYTES_PER_PIXEL
        return max(2, min(_MOST_WAITING, automatic_queue() // 4 // cost))


class FrameSource(Protocol):
    """Numbered frames, and from which of them on results are wanted."""

    @property
    def begin(self) -> int:
        """Number of the first frame whose result is wanted."""
        ...

    @property
    def total(self) -> int:
        """How many frames there are in all, as far as is known."""
        ...

    def frames(self) -> Iterator[tuple[int, Frame]]:
        """Yield the frames; on a thread of its own."""
        ...


def stream_frames(
    source: FrameSource,
    sink: FrameSink,
    restorer: Restorer,
    settings: Settings,
    flow: FrameStreamContext,
) -> None:
    """Restore frames from a source into a sink.

    Raises:
        Interrupted: The run was asked to stop.
        VarfixError: What source, model or sink raise.
    """
    converter = YcbcrConverter(flow.layout, flow.clip.tags.matrix)
    turns = quarter_turns(flow.clip.display_matrix)
    feed = _Feed(source, converter, turns, flow)

    def store(work: tuple[Frame, Floats]) -> None:
        began = time.monotonic()
        frame, pixels = work
        sink.add(frame, converter.apply_change(frame.planes, _rotated(pixels, -turns)))
        flow.spent.timed("encode", began)

    with ExitStack() as stack:
        stack.callback(feed.close)
        behind = Behind(store, flow.depth)
        # Also when the model fails or the run is stopped: what is restored may finish a segment.
        stack.callback(behind.settle)
        wanted = range(source.begin, _ENDLESS)
        results = deflicker(restorer, feed, wanted, settings, deflicker_settings(settings))
        while True:
            began, waited = time.monotonic(), feed.waited
            step = next(results, None)
            flow.spent.timed("infer", began, without=feed.waited - waited)
            if step is None:
                break
            number, pixels = step
            behind.put((feed.taken(number), pixels))
            flow.spent.frames += 1
            flow.hooks.progress(number + 1, max(number + 1, source.total))
        behind.finish()


class _Feed:
    """Frames as the model sees them, made on a thread; remembers how they were stored."""

    def __init__(
        self, source: FrameSource, converter: YcbcrConverter, turns: int, flow: FrameStreamContext
    ) -> None:
        self.waited = 0.0
        self._source, self._converter = source, converter
        self._turns, self._spent = turns, flow.spent
        self._stopped = flow.hooks.stopped
        self._kept: dict[int, Frame] = {}
        self._ahead = Ahead(self._made(), flow.depth)

    def __iter__(self) -> Iterator[tuple[int, Floats]]:
        values = iter(self._ahead)
        while True:
            began = time.monotonic()
            value = next(values, None)
            self.waited += time.monotonic() - began
            if value is None:
                return
            if self._stopped():
                raise Interrupted("stopped", hint="run the same command again to continue")
            number, frame, pixels = value
            self._kept[number] = frame
            yield number, pixels

    def taken(self, number: int) -> Frame:
        """Give up a frame, and all before it."""
        frame = self._kept[number]
        for old in [one for one in self._kept if one <= number]:
            del self._kept[old]
        return frame

    def close(self) -> None:
        """Stop decoding."""
        self._ahead.close()

    def _made(self) -> Iterator[tuple[int, Frame, Floats]]:
        frames = self._source.frames()
        while True:
            began = time.monotonic()
            found = next(frames, None)
            if found is None:
                return
            number, frame = found
            pixels = _rotated(self._converter.to_rgb(frame.planes), self._turns)
            self._spent.timed("decode", began)
            yield number, frame, pixels


def quarter_turns(matrix: tuple[int, ...] | None) -> int:
    """Quarter turns, against the clock, that make a frame upright; mirrored ones stay as they are.

    Args:
        matrix: nine numbers of a display matrix, None for upright frames.
    """
    if matrix is None:
        return 0
    one, two, three, four = matrix[0], matrix[1], matrix[3], matrix[4]
    if one * four - two * three <= 0:
        return 0
    if abs(one) >= abs(two):
        return 0 if one > 0 else 2
    return 1 if two < 0 else 3


def _rotated(pixels: Floats, turns: int) -> Floats:
    return pixels if turns % 4 == 0 else np.ascontiguousarray(np.rot90(pixels, turns))


def deflicker_settings(settings: Settings) -> DeflickerSettings:
    """How frames are steadied in time."""
    video = settings.video
    return DeflickerSettings(window=video.window, keys=video.keys, lock=video.lock)
