"""Decodes a clip's frames one after the other, from anywhere in it, each with its own time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from varfix.engine.errors import DecodeError, DecodeTruncatedError, DecodeUnsupportedError
from varfix.engine.video.clip import Clip, Frame, Layout
from varfix.engine.video.pixel_formats import planes_of
from varfix.engine.video.probe import check_frame, open_container

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer


@dataclass(frozen=True)
class ReadOptions:
    """How a clip is read.

    Attributes:
        layout: in which the frames are wanted; the clip's own, or one that an encoder takes.
        interlaced: `refuse`, or `ignore` to take half-frames for frames.
        damaged: `fail`, or `conceal` to take what the decoder makes of damaged data.
        warn: told of what is not as it should be, by code and text.
    """

    layout: Layout
    interlaced: str = "refuse"
    damaged: str = "fail"
    warn: Callable[[str, str], None] = lambda code, text: None


class ClipReader:
    """Reads the frames of a clip."""

    def __init__(self, path: Path, clip: Clip, reading: ReadOptions) -> None:
        self._path, self._clip, self._reading = path, clip, reading

    def frames(
        self, first: int | None = None, end: int | None = None
    ) -> Generator[Frame, None, None]:
        """Yield the frames in the order in which they are shown.

        Args:
            first: ticks; frames before it are left out, without decoding all of them.
            end: ticks; frames from there on are left out.

        Raises:
            DecodeError: The data is damaged, or the frames change their kind on the way.
            SourceReadError: The file cannot be read.
        """
        for seeking in (first is not None, False):
            with open_container(self._path) as container:
                found = self._found(container, first if seeking else None)
                head = next(found, None)
                # A seek that landed too late has missed frames: then from the beginning.
                if seeking and first is not None and (head is None or head.pts > first):
                    continue
                if head is not None:
                    yield from self._within(head, found, first, end)
                return

    def _within(
        self, head: Frame, rest: Iterator[Frame], first: int | None, end: int | None
    ) -> Iterator[Frame]:
        """The frames wanted; each lasts until the next, the last as long as the file says."""
        ticks = max(1, round(1 / (self._clip.rate * self._clip.time_base)))
        for frame, following in _paired(head, rest):
            if end is not None and frame.pts >= end:
                return
            if first is None or frame.pts >= first:
                lasts = following.pts - frame.pts if following else self._left(frame)
                yield replace(frame, duration=lasts if lasts > 0 else ticks)

    def _left(self, frame: Frame) -> int:
        """How long the last frame lasts: the header knows better than its packet."""
        end = self._clip.end
        return frame.duration if end is None or end <= frame.pts else end - frame.pts

    def _found(self, container: InputContainer, first: int | None) -> Iterator[Frame]:
        """All frames from a place at or before `first` on, with times that always increase."""
        if first is not None:
            container.seek(first, stream=container.streams[self._clip.stream], backward=True)
        ticks = max(1, round(1 / (self._clip.rate * self._clip.time_base)))
        last: int | None = None
        for shown in self._decoded(container):
            pts = shown.pts if shown.pts is not None else shown.dts
            if pts is None:
                pts = 0 if last is None else last + ticks
            if last is not None and pts <= last:
                self._reading.warn("frame_times", f"frame at tick {pts} comes too late; moved on")
                pts = last + 1
            last = pts
            yield Frame(planes_of(shown, self._reading.layout), pts, shown.duration or 0)

    def _decoded(self, container: InputContainer) -> Iterator[VideoFrame]:
        import av.error

        stream = container.streams.video[_video_number(container, self._clip.stream)]
        stream.thread_type = "AUTO"
        concealing = self._reading.damaged == "conceal"
        number = 0
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    if not concealing:
                        raise
                    self._reading.warn("frame_damaged", f"data after frame {number} is damaged")
                    continue
                for frame in frames:
                    self._check(frame, number)
                    yield frame
                    number += 1
        except av.error.FFmpegError as error:
            raise _damaged(number) from error

    def _check(self, frame: VideoFrame, number: int) -> None:
        if frame.is_corrupt:
            if self._reading.damaged != "conceal":
                raise _damaged(number)
            self._reading.warn("frame_damaged", f"frame {number} is damaged")
        layout = self._clip.layout
        if (frame.width, frame.height) != (layout.width, layout.height):
            raise DecodeUnsupportedError(
                f"changes its size at frame {number}, from {layout.width}x{layout.height} to"
                f" {frame.width}x{frame.height}",
                hint="cut it there, and restore the parts",
            )
        check_frame(frame, self._reading.interlaced)


def _paired(head: Frame, rest: Iterator[Frame]) -> Iterator[tuple[Frame, Frame | None]]:
    for following in rest:
        yield head, following
        head = following
    yield head, None


def _video_number(container: InputContainer, index: int) -> int:
    return [stream.index for stream in container.streams.video].index(index)


def checksum(frame: Frame) -> int:
    """CRC-32 of a frame's samples."""
    crc = 0
    for plane in frame.planes:
        crc = zlib.crc32(np.ascontiguousarray(plane).data, crc)
    return crc


def tick_at(clip: Clip, seconds: Fraction) -> int:
    """Return the first tick of a clip at or after a moment, in seconds from its beginning."""
    ticks = (seconds + clip.start) / clip.time_base
    return -(-ticks.numerator // ticks.denominator)


def _damaged(number: int) -> DecodeError:
    return DecodeTruncatedError(
        f"its data is damaged at frame {number}. Nothing was put together, so that a broken"
        " image is not mistaken for a result.",
        hint="Add `--set video.damaged=conceal` to take what the decoder makes of it.",
    )
