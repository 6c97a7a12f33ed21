"""Where the frames of a restoration come from: a file, or a pipe that is read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from varfix.engine.errors import DecodeError
from varfix.engine.settings.types import VideoSettings
from varfix.engine.video.clip import Clip, Frame, FrameStream, Layout, TimeRange
from varfix.engine.video.encode.segments import Segment
from varfix.engine.video.pixel_formats import convert_planes
from varfix.engine.video.reader import ClipReader, ReadOptions, checksum, tick_at

_MAX_WARNINGS = 3  # of each kind; a damaged video may cause a warning for every frame


class PipeFrames:
    """The frames of a pipe, which can be read only once."""

    begin = 0

    def __init__(self, stream: FrameStream, layout: Layout, time_range: TimeRange) -> None:
        """Take the stream; nothing is read yet.

        Args:
            stream: The pipe.
            layout: Layout of the frames to yield.
            time_range: Part of the video to yield.
        """
        self._stream, self._layout, self._range = stream, layout, time_range

    @property
    def total(self) -> int:
        """Number of frames; 0, because a pipe does not give it in advance."""
        return 0

    def frames(self) -> Iterator[tuple[int, Frame]]:
        """Yield number and frame, in the requested layout."""
        clip = self._stream.clip
        first, end = tick_limits(clip, self._range)
        number = 0
        for frame in self._stream.frames():
            if end is not None and frame.pts >= end:
                return
            if first is None or frame.pts >= first:
                planes = convert_planes(frame.planes, clip.layout, self._layout, clip.tags.matrix)
                yield number, replace(frame, planes=planes)
                number += 1

    def all_frames(self) -> None:
        """Return None: a pipe is read only once."""


@dataclass(frozen=True)
class FileRange:
    """The part of a file to read.

    Attributes:
        path: The file.
        clip: Its header.
        time_range: Part of the video to yield.
        layout: Layout of the frames to yield.
        flatten: Color to put under transparency; None keeps it if the layout does.
    """

    path: Path
    clip: Clip
    time_range: TimeRange
    layout: Layout
    flatten: str | None = None


class FileFrames:
    """The frames of a file, from the end of the finished segments on."""

    def __init__(
        self,
        file: FileRange,
        video: VideoSettings,
        finished: Sequence[Segment],
        context: int,
        warn: Callable[[str, str], None],
    ) -> None:
        """Prepare reading; the file is opened by `frames`.

        Args:
            file: The part to read.
            video: How to treat interlaced and damaged frames.
            finished: Segments of an earlier run; their frames are not restored again.
            context: Frames before the first unfinished one on which its result depends, at
                least 1.
            warn: Receives code and text of each warning.
        """
        self._clip, self._range = file.clip, file.time_range
        options = ReadOptions(
            file.layout, video.interlaced, video.damaged, file.flatten, _limited(warn)
        )
        self._reader = ClipReader(file.path, file.clip, options)
        # What is wrong with the file is reported by the first reader.
        self._surveyor = ClipReader(file.path, file.clip, replace(options, warn=_ignore))
        self._times = [at for segment in finished for at, _ in segment.times]
        self._last_checksum = finished[-1].last if finished else 0
        self._context = context

    @property
    def begin(self) -> int:
        """Number of the first unfinished frame."""
        return len(self._times)

    @property
    def total(self) -> int:
        """Number of frames in the time range according to the header; 0 when it has none."""
        return self._clip.frames_in(self._range)

    def frames(self) -> Iterator[tuple[int, Frame]]:
        """Yield number and frame, beginning with the context of the first unfinished frame.

        Raises:
            DecodeError: The file is damaged, or its frames differ from those of the earlier run.
        """
        first, end = tick_limits(self._clip, self._range)
        if not self._times:
            yield from enumerate(self._reader.frames(first, end))
            return
        begin = max(0, self.begin - self._context)
        frames = self._reader.frames(self._times[begin], end)
        head = _take(frames, self.begin - begin)
        if not self._matches(head, begin):
            # Seeking gives other frames in this file; decode it from the start instead.
            frames.close()
            frames = self._reader.frames(first, end)
            _take(frames, begin)
            head = _take(frames, self.begin - begin)
            if not self._matches(head, begin):
                raise DecodeError(
                    "decoded frames differ from the interrupted run",
                    hint="remove the segments of the interrupted run, the folder *.varfix next to"
                    " the result, and run the same command again",
                )
        yield from enumerate(head, begin)
        yield from enumerate(frames, self.begin)

    def all_frames(self) -> Iterator[tuple[int, Frame]]:
        """Yield number and frame from the first one on, up to damage that `frames` reports."""
        with suppress(DecodeError):
            yield from enumerate(self._surveyor.frames(*tick_limits(self._clip, self._range)))

    def _matches(self, head: list[Frame], begin: int) -> bool:
        """Return whether the frames are those of the earlier run from number `begin` on."""
        times = [frame.pts for frame in head]
        return times == self._times[begin:] and checksum(head[-1]) == self._last_checksum


def tick_limits(clip: Clip, time_range: TimeRange) -> tuple[int | None, int | None]:
    """Return the first tick of a time range and the tick after it; None where it is open."""
    begin, end = time_range.begin, time_range.end
    return (
        None if begin is None else tick_at(clip, begin),
        None if end is None else tick_at(clip, end),
    )


def _ignore(code: str, text: str) -> None:
    """Drop a warning."""


def _take(frames: Iterator[Frame], count: int) -> list[Frame]:
    return [frame for _, frame in zip(range(count), frames, strict=False)]


def _limited(warn: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """Pass on only the first few warnings of each kind."""
    counts: Counter[str] = Counter()

    def warn_limited(code: str, text: str) -> None:
        counts[code] += 1
        if counts[code] <= _MAX_WARNINGS:
            last = counts[code] == _MAX_WARNINGS
            warn(code, text + ("; further warnings of this kind are suppressed" if last else ""))

    return warn_limited
