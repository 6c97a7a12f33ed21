"""Reads a video's header, and rejects videos that varfix cannot restore correctly."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from varfix.engine.errors import (
    DecodeEmptyError,
    DecodeTruncatedError,
    DecodeUnknownError,
    DecodeUnsupportedError,
)
from varfix.engine.settings.types import Settings
from varfix.engine.system.files import open_source
from varfix.engine.video.clip import FULL, Clip, Layout, Tags
from varfix.engine.video.color import known_matrix
from varfix.engine.video.truncation import expected_end

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

# Numbers of ISO/IEC 23091-2.
_HDR: Final = {16: "PQ, HDR10", 18: "HLG"}
# Demuxers of the supported containers, by FFmpeg's names.
_CONTAINERS: Final = ("mov,mp4", "matroska,webm", "avi")
# Demuxers that FFmpeg may try, for messages that name the format. None of them opens further files,
# as playlists do.
_DEMUXERS: Final = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,ivf,mxf,dv,nut,y4m,wav,mp3"
)
# A name such as `http:x.mp4` is a file, and no file can refer to another one.
_FILES_ONLY: Final = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}
_MIN_RATE: Final = Fraction(1)
_MAX_RATE: Final = Fraction(240)
_ATTACHED_PICTURE: Final = 0x400
_DISCARD_ALL: Final = 48  # FFmpeg's AVDISCARD_ALL: part of another stream (titles of chapters)
# The length of a stream in Matroska's tags.
_DURATION: Final = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_MAX_SEARCH: Final = 200  # packets before the first frame


def av_path(path: Path) -> str:
    """Return a file's name for PyAV, which would read a bare `http:x.mp4` as an address."""
    return os.fspath(path.absolute())


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open a video; translate PyAV's errors.

    Raises:
        DecodeEmptyError: The file has no bytes.
        DecodeUnknownError: The file is not a video.
        DecodeTruncatedError: Its index or its end is missing.
        SourceReadError: It cannot be read.
    """
    import av
    import av.error

    _check_ends(path)
    try:
        container = av.open(av_path(path), metadata_errors="replace", container_options=_FILES_ONLY)
    except (av.error.InvalidDataError, av.error.ArgumentError) as error:
        raise _unopened(path) from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DecodeUnknownError(f"cannot be opened as a video ({_reason(error)})") from error
    with container:
        if not container.format.name.startswith(_CONTAINERS):
            raise DecodeUnsupportedError(
                f"container not supported ({container.format.name})",
                hint="copy it into mp4, mov, mkv, webm or avi, for example with"
                " `ffmpeg -i VIDEO -c copy video.mkv`",
            )
        yield container


def probe_clip(path: Path, *, interlaced: str = "refuse", max_pixels: int | None = None) -> Clip:
    """Read the header and the first frame.

    Args:
        path: The file.
        interlaced: `refuse`, or `ignore` to treat interlaced frames as progressive.
        max_pixels: Largest accepted frame; None for no limit.

    Raises:
        DecodeError: The file is not a video, is damaged, or cannot be restored correctly.
        SourceReadError: It cannot be read.
    """
    with open_container(path) as container:
        stream = main_stream(container)
        width, height = stream.codec_context.width, stream.codec_context.height
        if max_pixels is not None and width * height > max_pixels:
            raise DecodeUnsupportedError(
                f"frames of {width}x{height} exceed the limit of {max_pixels} pixels",
                hint=f"add --set limits.max_pixels={width * height}",
            )
        frame = _first_frame(container, stream)
        check_frame(frame, interlaced)
        if stream.metadata.get("alpha_mode") == "1":
            raise _alpha()
        return _clip(container, stream, frame)


def probe_for(path: Path, settings: Settings) -> Clip:
    """Read a video's header with the limits of the settings; see `probe_clip`."""
    return probe_clip(
        path, interlaced=settings.video.interlaced, max_pixels=settings.limits.max_pixels
    )


def main_stream(container: InputContainer) -> VideoStream:
    """Return the first video stream that is not a cover image.

    Raises:
        DecodeUnsupportedError: There is none, or no decoder for it.
    """
    for stream in container.streams.video:
        if not stream.disposition & _ATTACHED_PICTURE and int(stream.discard) != _DISCARD_ALL:
            if stream.codec_context is None:
                raise DecodeUnsupportedError("no decoder for its video codec")
            return stream
    raise DecodeUnsupportedError("no video stream", hint="choose a file with a video stream")


def check_frame(frame: VideoFrame, interlaced: str) -> None:
    """Reject a frame that cannot be restored correctly.

    Args:
        frame: The frame.
        interlaced: `refuse`, or `ignore` to accept interlaced frames.

    Raises:
        DecodeUnsupportedError: It is interlaced, HDR, transparent, or has an unknown matrix.
    """
    if frame.interlaced_frame and interlaced == "refuse":
        raise DecodeUnsupportedError(
            "interlaced video (each frame holds two moments, which the model would blend)",
            hint="deinterlace it with `ffmpeg -i VIDEO -vf bwdif -c:a copy out.mkv`, or add"
            " `--set video.interlaced=ignore` if only its flag is wrong",
        )
    transfer = _HDR.get(int(frame.color_trc))
    if transfer is not None:
        raise DecodeUnsupportedError(
            f"HDR video ({transfer}; models support standard range only)",
            hint="convert it to BT.709, for example with FFmpeg's filters zscale and tonemap",
        )
    if _has_alpha(frame):
        raise _alpha()
    if not _is_rgb(frame) and not known_matrix(int(frame.colorspace)):
        raise DecodeUnsupportedError(
            f"color matrix {int(frame.colorspace)} is not supported",
            hint="convert it to BT.709, for example with FFmpeg's filter zscale",
        )


def _clip(container: InputContainer, stream: VideoStream, frame: VideoFrame) -> Clip:
    seconds = _seconds(container, stream)
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    rate = min(max(rate, _MIN_RATE), _MAX_RATE)
    counted = stream.frames or int(stream.metadata.get("NUMBER_OF_FRAMES", "0") or 0)
    frames = counted or (round(seconds * rate) if seconds else None)
    assert stream.time_base is not None
    return Clip(
        layout=layout_of(frame),
        stored=frame.format.name,
        codec=stream.codec_context.codec.canonical_name,
        container=container.format.name,
        stream=stream.index,
        time_base=stream.time_base,
        rate=rate,
        frames=frames,
        start=Fraction(container.start_time or 0, 1_000_000),
        first=_first_tick(stream, frame),
        end=None if stream.duration is None else (stream.start_time or 0) + stream.duration,
        seconds=seconds,
        aspect=stream.sample_aspect_ratio or None,
        display_matrix=_display_matrix(frame),
        tags=_tags(frame),
    )


def layout_of(frame: VideoFrame) -> Layout:
    """Return the planar layout that holds all of a frame's samples.

    RGB becomes Y'CbCr 4:4:4; chroma subsampled by four becomes subsampled by two.
    """
    form = frame.format
    depth = max(component.bits for component in form.components)
    down, across = 1, 1
    if not _is_rgb(frame) and len(form.components) > 1:
        across = 2 if form.chroma_width(16) < 16 else 1
        down = 2 if form.chroma_height(16) < 16 else 1
        if (across, down) == (1, 2):  # no encoder takes 4:4:0
            down = 1
    jpeg = form.name.startswith("yuvj")
    return Layout(
        width=frame.width,
        height=frame.height,
        depth=8 if depth <= 8 else 10 if depth <= 10 else 12 if depth <= 12 else 16,
        across=across,
        down=down,
        gray=len(form.components) == 1 and not form.has_palette,
        full=(int(frame.color_range) == FULL or jpeg) and not _is_rgb(frame),
        centered=jpeg,
    )


def _tags(frame: VideoFrame) -> Tags:
    matrix = 1 if _is_rgb(frame) else int(frame.colorspace)
    return Tags(
        int(frame.color_primaries),
        int(frame.color_trc),
        matrix,
        0 if _is_rgb(frame) else int(frame.color_range),
    )


def _first_tick(stream: VideoStream, frame: VideoFrame) -> int:
    ticks = (frame.pts, frame.dts, stream.start_time, 0)
    return next(tick for tick in ticks if tick is not None)


def _is_rgb(frame: VideoFrame) -> bool:
    return bool(frame.format.is_rgb or frame.format.has_palette)


def _has_alpha(frame: VideoFrame) -> bool:
    name = frame.format.name
    return name.startswith(("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ya", "pal8"))


def _alpha() -> DecodeUnsupportedError:
    return DecodeUnsupportedError(
        "transparent video (results cannot be transparent)",
        hint="put it on an opaque background first, for example with FFmpeg's filter overlay",
    )


def _display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    for number in range(len(frame.side_data)):
        data = cast(Any, frame.side_data)[number]
        if data.type.name == "DISPLAYMATRIX":
            raw = bytes(data)
            parts = (raw[at : at + 4] for at in range(0, 36, 4))
            return tuple(int.from_bytes(part, "little", signed=True) for part in parts)
    return None


def stream_seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    """Return the length of the stream itself; None if the container stores only its own."""
    tag = _DURATION.fullmatch(stream.metadata.get("DURATION", ""))
    if tag is not None:
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + Fraction(tag[3])
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


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    import av.error

    try:
        for number, packet in enumerate(container.demux(stream)):
            for frame in packet.decode():
                return frame
            if number > _MAX_SEARCH:
                break
    except av.error.FFmpegError as error:
        raise DecodeTruncatedError(f"first frame is damaged ({_reason(error)})") from error
    raise DecodeUnsupportedError("contains no frame")


def _check_ends(path: Path) -> None:
    """Reject an empty file, and a file that is shorter than its container states."""
    with open_source(path) as file:
        size = file.seek(0, 2)
        if not size:
            raise DecodeEmptyError("empty file (0 bytes)")
        end = expected_end(file)
    if end is not None and end > size:
        raise DecodeTruncatedError(
            f"file ends early ({size:,} of {end:,} bytes)",
            hint="get a complete copy; to restore the existing part, extract it with"
            " `ffmpeg -i VIDEO -c copy part.mkv`",
        )


def _unopened(path: Path) -> DecodeUnknownError | DecodeTruncatedError:
    with open_source(path) as file:
        known = expected_end(file) is not None
    if known:
        return DecodeTruncatedError(
            "index is missing or damaged (possibly an unfinished recording)",
            hint="get a complete copy, or repair the file",
        )
    return DecodeUnknownError(
        "not a video that varfix can read",
        hint="use mp4, mov, mkv, webm or avi; for an image run 'varfix image'",
    )


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
