"""Decodes a video's frames in order, from any time on, each with its own time."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from varfix.engine.errors import DecodeError, DecodeTruncatedError, DecodeUnsupportedError
from varfix.engine.video.alpha import Background, is_transparent
from varfix.engine.video.clip import Clip, Frame, Layout, Samples
from varfix.engine.video.containers import open_container, with_path
from varfix.engine.video.deinterlace import FIELDS, FRAMES, MODES, NEIGHBORS, Deinterlacer
from varfix.engine.video.pixel_formats import planes_of
from varfix.engine.video.probe import time_of
from varfix.engine.video.refusals import check_frame, transparent

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer


@dataclass(frozen=True)
class ReadOptions:
    """How to read a video.

    Attributes:
        layout: Layout of the frames to return: that of the video, or of an encoder.
        interlaced: `refuse`; `ignore` to treat interlaced frames as progressive; `frames` or
            `fields` to deinterlace them.
        damaged: `fail`, or `conceal` to use what the decoder reconstructs from damaged data.
        flatten: Color to put under transparency; None keeps it if the layout does.
        warn: Receives code and text of each warning.
    """

    layout: Layout
    interlaced: str = "refuse"
    damaged: str = "fail"
    flatten: str | None = None
    warn: Callable[[str, str], None] = lambda code, text: None


class ClipReader:
    """Reads the frames of a video."""

    def __init__(self, path: Path, clip: Clip, options: ReadOptions) -> None:
        self._path, self._clip, self._options = path, clip, options
        self._background = None
        if options.flatten is not None:
            self._background = Background(options.flatten, options.layout, clip.tags.matrix)

    def frames(
        self, first: int | None = None, end: int | None = None
    ) -> Generator[Frame, None, None]:
        """Yield the frames in presentation order.

        Args:
            first: First tick; earlier frames are left out, without decoding all of them.
            end: Tick after the last; later frames are left out.

        Raises:
            DecodeError: The data is damaged, or the frames change size or format.
            SourceReadError: The file cannot be read.
        """
        for seeking in (first is not None and not self._clip.is_stream, False):
            opened = open_container(self._path, self._clip.rate)
            with with_path(self._path), opened as container:
                frames = self._ordered(container, first if seeking else None)
                head = next(frames, None)
                # The seek landed too late and missed frames: decode from the beginning.
                if seeking and first is not None and (head is None or head.pts > first):
                    continue
                if head is not None:
                    yield from self._within(head, frames, first, end)
                return

    def _within(
        self, head: Frame, rest: Iterator[Frame], first: int | None, end: int | None
    ) -> Iterator[Frame]:
        """Yield the frames in the range; each lasts until the next, the last until the end."""
        ticks = max(1, round(1 / (self._clip.rate * self._clip.time_base)))
        for frame, following in _paired(head, rest):
            if end is not None and frame.pts >= end:
                return
            if first is None or frame.pts >= first:
                duration = following.pts - frame.pts if following else self._last_duration(frame)
                yield replace(frame, duration=duration if duration > 0 else ticks)

    def _last_duration(self, frame: Frame) -> int:
        """Return the duration of the last frame; the header is more reliable than its packet."""
        end = self._clip.end
        return frame.duration if end is None or end <= frame.pts else end - frame.pts

    def _ordered(self, container: InputContainer, first: int | None) -> Iterator[Frame]:
        """Yield all frames from a key frame at or before `first` on, with increasing times."""
        clip = self._clip
        stream = container.streams.video[_video_index(container, clip.stream)]
        assert stream.time_base is not None
        ratio = clip.time_base / stream.time_base  # 1/2 with a frame for each field
        step = max(1, round(1 / (clip.rate * clip.time_base)))
        deinterlaces = self._options.interlaced in MODES
        if first is not None:
            first = math.floor(ratio * (first - (NEIGHBORS * step if deinterlaces else 0)))
            container.seek(first, stream=stream, backward=True)
        decoded_frames = self._decoded(container, stream)
        timed = self._timed(decoded_frames, round(clip.first * ratio), max(1, round(step * ratio)))
        if not deinterlaces:
            for tick, decoded in timed:
                yield Frame(self._planes(decoded), tick, decoded.duration or 0)
            return
        filter_ = Deinterlacer(FIELDS if clip.fields else FRAMES, ratio)
        for tick, decoded in filter_.frames(timed):
            yield Frame(self._planes(decoded), tick, 0)

    def _planes(self, frame: VideoFrame) -> tuple[Samples, ...]:
        layout = self._options.layout
        if self._background is None or not is_transparent(frame):
            return planes_of(frame, layout)
        return self._background.under(planes_of(frame, replace(layout, alpha=True)))

    def _timed(
        self, frames: Iterator[VideoFrame], first: int, step: int
    ) -> Iterator[tuple[int, VideoFrame]]:
        """Yield tick and frame; ticks increase.

        Args:
            frames: Decoded frames; the ticks are those of their stream.
            first: Tick of the first frame, if the file does not give it.
            step: Ticks between frames whose times the file does not give.
        """
        last: int | None = None
        for decoded in frames:
            pts = time_of(decoded, self._clip.container)
            if pts is None:
                pts = first if last is None else last + step
            if last is not None and pts <= last:
                self._options.warn(
                    "frame_times", f"frame at tick {pts} is out of order; timestamp adjusted"
                )
                pts = last + 1
            last = pts
            yield pts, decoded

    def _decoded(self, container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
        import av.error

        stream.thread_type = "AUTO"
        concealing = self._options.damaged == "conceal"
        number = 0
        try:
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:
                    if not concealing:
                        raise
                    self._options.warn("frame_damaged", f"data after frame {number} is damaged")
                    continue
                for frame in frames:
                    self._check(frame, number)
                    yield frame
                    number += 1
        except av.error.FFmpegError as error:
            raise _damaged(number) from error

    def _check(self, frame: VideoFrame, number: int) -> None:
        if frame.is_corrupt:
            if self._options.damaged != "conceal":
                raise _damaged(number)
            self._options.warn("frame_damaged", f"frame {number} is damaged")
        layout = self._clip.layout
        if (frame.width, frame.height) != (layout.width, layout.height):
            raise DecodeUnsupportedError(
                f"frame size changes at frame {number}, from {layout.width}x{layout.height} to"
                f" {frame.width}x{frame.height}",
                hint="split the video there, and restore each part",
            )
        check_frame(frame, self._options.interlaced)
        is_kept = layout.alpha or self._background is not None
        if not is_kept and is_transparent(frame):
            raise transparent(number)


def _paired(head: Frame, rest: Iterator[Frame]) -> Iterator[tuple[Frame, Frame | None]]:
    for following in rest:
        yield head, following
        head = following
    yield head, None


def _video_index(container: InputContainer, index: int) -> int:
    return [stream.index for stream in container.streams.video].index(index)


def checksum(frame: Frame) -> int:
    """Return the CRC-32 of a frame's samples."""
    crc = 0
    for plane in frame.planes:
        crc = zlib.crc32(np.ascontiguousarray(plane).data, crc)
    return crc


def tick_at(clip: Clip, seconds: Fraction) -> int:
    """Return the first tick at or after a time in seconds from the beginning of a video."""
    ticks = (seconds + clip.start) / clip.time_base
    return -(-ticks.numerator // ticks.denominator)


def _damaged(number: int) -> DecodeError:
    return DecodeTruncatedError(
        f"data is damaged at frame {number} (no result is written)",
        hint="add `--set video.damaged=conceal` to use what the decoder reconstructs",
    )
