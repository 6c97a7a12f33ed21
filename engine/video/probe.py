"""Reads a video's header."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from varfix.engine.errors import DecodeTruncatedError, DecodeUnsupportedError
from varfix.engine.settings.types import Settings
from varfix.engine.video.alpha import becomes_transparent
from varfix.engine.video.clip import Clip
from varfix.engine.video.containers import main_stream, open_container, reason, with_path
from varfix.engine.video.deinterlace import FIELDS, for_fields
from varfix.engine.video.frame_facts import display_matrix, layout_of, rate_of, tags_of
from varfix.engine.video.refusals import check_first_frame
from varfix.engine.video.sources.animated_webp import is_webp
from varfix.engine.video.sources.hdr_metadata import hdr_metadata
from varfix.engine.video.sources.numbered_images import DEFAULT_RATE, frame_rate, is_pattern

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

# The length of a stream in Matroska's tags.
_DURATION: Final = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_MAX_SEARCH: Final = 200  # packets before the first frame


def probe_clip(
    path: Path,
    *,
    interlaced: str = "refuse",
    max_pixels: int | None = None,
    rate: Fraction = DEFAULT_RATE,
    alpha: str = "auto",
) -> Clip:
    """Read the header and the first frame.

    Args:
        path: The file.
        interlaced: `refuse`; `ignore` to treat interlaced frames as progressive; `frames` or
            `fields` to deinterlace them.
        max_pixels: Largest accepted frame; None for no limit.
        rate: Frames per second of numbered images.
        alpha: `auto` = keep transparency if one of the first frames has it; `keep`; `flatten`.

    Raises:
        DecodeError: The file is not a video, is damaged, or cannot be restored correctly.
        SourceReadError: It cannot be read.
    """
    with with_path(path), open_container(path, rate) as container:
        stream = main_stream(container)
        width, height = stream.codec_context.width, stream.codec_context.height
        if max_pixels is not None and width * height > max_pixels:
            raise DecodeUnsupportedError(
                f"frames of {width}x{height} exceed the limit of {max_pixels} pixels",
                hint=f"add --set limits.max_pixels={width * height}",
            )
        frame, first = _first_frame(container, stream)
        check_first_frame(path, stream, frame, interlaced)
        clip = _clip(container, stream, frame, first)
        if alpha == "keep" or (alpha == "auto" and _becomes_transparent(path)):
            clip = replace(clip, layout=replace(clip.layout, alpha=True))
        if not is_pattern(path) and is_webp(path):
            clip = replace(clip, codec="webp")  # not that of the temporary file
        return for_fields(clip) if frame.interlaced_frame and interlaced == FIELDS else clip


def probe_for(path: Path, settings: Settings) -> Clip:
    """Read a video's header with the limits of the settings; see `probe_clip`."""
    return probe_clip(
        path,
        interlaced=settings.video.interlaced,
        max_pixels=settings.limits.max_pixels,
        rate=frame_rate(settings.video.fps),
        alpha=settings.video.alpha if settings.output.flatten is None else "flatten",
    )


def _becomes_transparent(path: Path) -> bool:
    with open_container(path) as container:
        return becomes_transparent(_decoded(container, main_stream(container)))


def time_of(frame: VideoFrame, container: str) -> int | None:
    """Return a frame's tick; None if the file does not contain it.

    AVI stores no presentation times: FFmpeg invents them, out of order if frames were encoded out
    of order. The decoding times are those of the file.

    Args:
        frame: A decoded frame.
        container: FFmpeg's short names of the container.
    """
    if container.startswith("avi"):
        return frame.dts
    return frame.pts if frame.pts is not None else frame.dts


def _clip(container: InputContainer, stream: VideoStream, frame: VideoFrame, first: int) -> Clip:
    seconds, rate = _seconds(container, stream), rate_of(stream)
    counted = stream.frames or int(stream.metadata.get("NUMBER_OF_FRAMES", "0") or 0)
    frames = counted or (round(seconds * rate) if seconds else None)
    assert stream.time_base is not None
    return Clip(
        layout=layout_of(frame, stream.codec_context.codec.canonical_name),
        stored=frame.format.name,
        codec=stream.codec_context.codec.canonical_name,
        container=container.format.name,
        stream=stream.index,
        time_base=stream.time_base,
        rate=rate,
        frames=frames,
        start=Fraction(container.start_time or 0, 1_000_000),
        first=first,
        end=_end(container, stream),
        seconds=seconds,
        aspect=stream.sample_aspect_ratio or None,
        display_matrix=display_matrix(frame),
        tags=tags_of(frame),
        hdr=hdr_metadata(frame),
    )


def _end(container: InputContainer, stream: VideoStream) -> int | None:
    """Return the tick at which the last frame ends; None if the header does not give it."""
    if stream.duration is None or container.format.name == "gif":  # an estimate
        return None
    return (stream.start_time or 0) + stream.duration


def stream_seconds(
    container: InputContainer, stream: VideoStream, first: Fraction | None = None
) -> Fraction | None:
    """Return the length of the stream itself; None if the container stores only its own.

    Args:
        container: The file.
        stream: The stream.
        first: Time of the first frame, in seconds; None = as FFmpeg estimates it.
    """
    tag = _DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if tag is not None:
        seconds = int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])
        if "NUMBER_OF_FRAMES" in stream.metadata:
            return seconds  # by mkvmerge, which counts from the first frame
        if first is None:
            first = (stream.start_time or 0) * (stream.time_base or Fraction(0))
        return seconds - max(Fraction(0), first)  # by FFmpeg, which counts from the time 0
    # FFmpeg gives streams of Matroska the length of the container, of the longest stream.
    if "matroska" in container.format.name or stream.duration is None or stream.time_base is None:
        return None
    return stream.duration * stream.time_base


def _seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    own = stream_seconds(container, stream)
    if own is not None:
        return own
    if container.duration is not None:
        return Fraction(container.duration, 1_000_000)
    return None


def _first_frame(container: InputContainer, stream: VideoStream) -> tuple[VideoFrame, int]:
    """Return the first frame, and its tick.

    Frames before 0 have no times in Matroska files; their times are derived from the first frame
    that has one.
    """
    import av.error

    assert stream.time_base is not None
    head = None
    try:
        for number, frame in enumerate(_decoded(container, stream)):
            head = frame if head is None else head
            tick = time_of(frame, container.format.name)
            if tick is not None:
                return head, tick - number * round(1 / (rate_of(stream) * stream.time_base))
            if number > _MAX_SEARCH:
                break
    except av.error.FFmpegError as error:
        if head is None:
            raise DecodeTruncatedError(f"first frame is damaged ({reason(error)})") from error
    if head is None:
        raise DecodeUnsupportedError("contains no frame")
    return head, stream.start_time or 0


def _decoded(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    """Yield frames until there are none in many packets."""
    empty = 0
    for packet in container.demux(stream):
        frames = packet.decode()
        empty = 0 if frames else empty + 1
        yield from frames
        if empty > _MAX_SEARCH:
            return
