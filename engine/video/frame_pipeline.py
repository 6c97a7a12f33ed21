"""Frames from a source through the model into a sink: three stages that run at the same time.

Decoding and encoding have a thread each; the model runs on the caller's thread. Only a few frames
wait between two stages, however long the video.
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
from varfix.engine.system.background import BackgroundWriter, Prefetcher
from varfix.engine.system.memory import default_queue_bytes
from varfix.engine.video.clip import Clip, Frame, Layout, Samples
from varfix.engine.video.color import YcbcrConverter
from varfix.engine.video.deflicker import DeflickerPorts, DeflickerSettings, deflicker
from varfix.engine.video.scene_survey import SceneSurvey

Floats = npt.NDArray[np.float32]

_ENDLESS: Final = 1 << 62
_MAX_WAITING: Final = 16
# Tasks that include noise; others leave the grain as it is.
_DENOISED: Final = frozenset({"auto", "noise"})
# Bytes per pixel of a waiting frame: its samples, and RGB in float32.
_BYTES_PER_PIXEL: Final = 18


def _ignore_warning(code: str, text: str) -> None:
    """Drop a warning."""


@dataclass(frozen=True)
class ClipCallbacks:
    """How the restoration of a video reports to its run.

    Attributes:
        is_stopping: Returns true once the run should end as soon as possible.
        progress: Receives the number of finished frames, and the expected total.
        warn: Receives code and text of each warning.
        publish: Receives the finished file, and moves it to its target.
    """

    is_stopping: Callable[[], bool] = lambda: False
    progress: Callable[[int, int], None] = lambda done, total: None
    warn: Callable[[str, str], None] = _ignore_warning
    publish: Callable[[Path], None] = lambda part: None


@dataclass
class StageTimes:
    """Working time of each stage, and the number of frames.

    Attributes:
        seconds: Seconds by stage: `decode`, `infer`, `encode`.
        frames: Restored frames.
        tone_shift: Sum of the frames' shifts of tone, each in [0, 1].
    """

    seconds: dict[str, float] = field(default_factory=dict)
    frames: int = 0
    tone_shift: float = 0.0

    def add(self, stage: str, since: float, without: float = 0.0) -> None:
        """Add the time since a value of `time.monotonic`, less `without` seconds."""
        elapsed = time.monotonic() - since - without
        self.seconds[stage] = self.seconds.get(stage, 0.0) + elapsed

    def add_tone_shift(self, shift: float) -> None:
        """Add the shift of a frame's tone."""
        self.tone_shift += shift


class FrameSink(Protocol):
    """Takes restored frames, in order, on a thread of its own."""

    def add(self, frame: Frame, planes: tuple[Samples, ...]) -> None:
        """Take a source frame and its restored samples."""
        ...


@dataclass(frozen=True)
class FrameStreamContext:
    """Values that all frames of a stream share.

    Attributes:
        layout: Layout of the source frames and of the restored ones.
        clip: Header of the video.
        callbacks: How to report to the run.
        times: Counters, updated by all stages.
    """

    layout: Layout
    clip: Clip
    callbacks: ClipCallbacks
    times: StageTimes

    @property
    def queue_depth(self) -> int:
        """Number of frames that may wait between two stages."""
        cost = self.layout.width * self.layout.height * _BYTES_PER_PIXEL
        return max(2, min(_MAX_WAITING, default_queue_bytes() // 4 // cost))


class FrameSource(Protocol):
    """Numbered frames, and the first of them to restore."""

    @property
    def begin(self) -> int:
        """Number of the first frame to restore; earlier ones are context."""
        ...

    @property
    def total(self) -> int:
        """Number of all frames, as far as known."""
        ...

    def frames(self) -> Iterator[tuple[int, Frame]]:
        """Yield number and frame; called on a thread of its own."""
        ...

    def all_frames(self) -> Iterator[tuple[int, Frame]] | None:
        """Yield number and frame from the first one on; None where they can be read only once."""
        ...


def stream_frames(
    source: FrameSource,
    sink: FrameSink,
    restorer: Restorer,
    settings: Settings,
    context: FrameStreamContext,
) -> None:
    """Restore frames from a source into a sink.

    Raises:
        Interrupted: The run is stopping.
        VarfixError: Source, model or sink failed.
    """
    tags = context.clip.tags
    converter = YcbcrConverter(context.layout, tags.matrix, tags.transfer)
    turns = quarter_turns(context.clip.display_matrix)
    frames = _ModelInput(source, converter, turns, context)

    def write(result: tuple[Frame, Floats]) -> None:
        began = time.monotonic()
        frame, pixels = result
        sink.add(frame, converter.apply_change(frame.planes, _rotated(pixels, -turns)))
        context.times.add("encode", began)

    with ExitStack() as stack:
        stack.callback(frames.close)
        writer = BackgroundWriter(write, context.queue_depth)
        # Also after a failure or a stop: the restored frames may complete a segment.
        stack.callback(writer.settle)
        wanted = range(source.begin, _ENDLESS)
        filtering = deflicker_settings(settings)
        survey = None
        if filtering.window and restorer.card.guidance == "image":
            survey = _survey(source, converter, turns, restorer, settings)
        ports = DeflickerPorts(survey, context.times.add_tone_shift)
        results = deflicker(restorer, frames, wanted, settings, filtering, ports)
        while True:
            began, waited = time.monotonic(), frames.waited
            result = next(results, None)
            context.times.add("infer", began, without=frames.waited - waited)
            if result is None:
                break
            number, pixels = result
            writer.put((frames.take(number), pixels))
            context.times.frames += 1
            context.callbacks.progress(number + 1, max(number + 1, source.total))
        writer.finish()


def _survey(
    source: FrameSource,
    converter: YcbcrConverter,
    turns: int,
    restorer: Restorer,
    settings: Settings,
) -> SceneSurvey | None:
    """Return the survey of the scenes; None for a pipe, which can be read only once."""
    frames = source.all_frames()
    if frames is None:
        return None
    upright = ((n, _rotated(converter.to_rgb(frame.planes), turns)) for n, frame in frames)
    return SceneSurvey(restorer, upright, settings.model.task)


class _ModelInput:
    """Frames as RGB for the model, converted on a thread; keeps the stored samples.

    Attributes:
        waited: Seconds that the model waited for frames.
    """

    def __init__(
        self,
        source: FrameSource,
        converter: YcbcrConverter,
        turns: int,
        context: FrameStreamContext,
    ) -> None:
        self.waited = 0.0
        self._source, self._converter = source, converter
        self._turns, self._times = turns, context.times
        self._is_stopping = context.callbacks.is_stopping
        self._stored: dict[int, Frame] = {}
        self._prefetched = Prefetcher(self._convert(), context.queue_depth)

    def __iter__(self) -> Iterator[tuple[int, Floats]]:
        values = iter(self._prefetched)
        while True:
            began = time.monotonic()
            value = next(values, None)
            self.waited += time.monotonic() - began
            if value is None:
                return
            if self._is_stopping():
                raise Interrupted("stopped", hint="run the same command again to continue")
            number, frame, pixels = value
            self._stored[number] = frame
            yield number, pixels

    def take(self, number: int) -> Frame:
        """Return a stored frame; drop it and all earlier ones."""
        frame = self._stored[number]
        for old in [known for known in self._stored if known <= number]:
            del self._stored[old]
        return frame

    def close(self) -> None:
        """Stop decoding."""
        self._prefetched.close()

    def _convert(self) -> Iterator[tuple[int, Frame, Floats]]:
        frames = self._source.frames()
        while True:
            began = time.monotonic()
            numbered = next(frames, None)
            if numbered is None:
                return
            number, frame = numbered
            pixels = _rotated(self._converter.to_rgb(frame.planes), self._turns)
            self._times.add("decode", began)
            yield number, frame, pixels


def quarter_turns(matrix: tuple[int, ...] | None) -> int:
    """Return the counterclockwise quarter turns that make a frame upright; 0 for mirrored frames.

    Args:
        matrix: Nine numbers of a display matrix; None for upright frames.
    """
    if matrix is None:
        return 0
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if a * d - b * c <= 0:
        return 0
    if abs(a) >= abs(b):
        return 0 if a > 0 else 2
    return 1 if b < 0 else 3


def _rotated(pixels: Floats, turns: int) -> Floats:
    return pixels if turns % 4 == 0 else np.ascontiguousarray(np.rot90(pixels, turns))


def deflicker_settings(settings: Settings) -> DeflickerSettings:
    """Return the deflicker part of the settings."""
    video = settings.video
    return DeflickerSettings(
        window=video.deflicker_window,
        prior_interval=video.prior_interval,
        lowpass=video.deflicker_lowpass,
        denoise_window=video.denoise_window if _DENOISED.intersection(settings.model.tasks) else 0,
    )
