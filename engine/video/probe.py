"""Reads a clip's header, and refuses the clips that varfix cannot restore faithfully."""

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
from varfix.engine.video.truncation import promised_end

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer

# Numbers of ISO/IEC 23091-2.
_HDR: Final = {16: "PQ (HDR10)", 18: "HLG"}
# The demuxers for the containers that varfix takes, by FFmpeg's names.
_CONTAINERS: Final = ("mov,mp4", "matroska,webm", "avi")
# Others that are told by their name. None of these opens further files, as playlists do.
_KNOWN: Final = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,ivf,mxf,dv,nut,y4m,wav,mp3"
# A name such as `http:x.mp4` is that of a file, and nothing that a file says leads elsewhere.
_FILES_ONLY: Final = {"protocol_whitelist": "file", "format_whitelist": _KNOWN}
_FEWEST: Final = Fraction(1)
_MOST: Final = Fraction(240)
_ATTACHED_PICTURE: Final = 0x400
_UNUSED: Final = 48  # AVDISCARD_ALL: not media, but part of another stream (titles of chapters)
# How Matroska's tags tell the length of a stream.
_LENGTH: Final = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
_LONGEST_SEARCH: Final = 200  # packets before the first frame


def av_path(path: Path) -> str:
    """A file's name as the library takes it, which reads `http:x.mp4` as an address."""
    return os.fspath(path.absolute())


@contextmanager
def open_container(path: Path) -> Iterator[InputContainer]:
    """Open a clip; what the library says about it becomes varfix's own.

    Raises:
        DecodeEmptyError: There are no bytes.
        DecodeUnknownError: It is no clip.
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
        raise DecodeUnknownError(f"cannot be opened as a clip ({_reason(error)})") from error
    with container:
        if not container.format.name.startswith(_CONTAINERS):
            raise DecodeUnsupportedError(
                f"a clip of the kind {container.format.name}",
                hint="varfix takes mp4, mov, mkv, webm and avi: copy it into one of them, for"
                " example with `ffmpeg -i CLIP -c copy clip.mkv`",
            )
        yield container


def probe_clip(path: Path, *, interlaced: str = "refuse", max_pixels: int | None = None) -> Clip:
    """Read the header, and look at the first frame.

    Args:
        path: the file.
        interlaced: `refuse`, or `ignore` to take half-frames for frames.
        max_pixels: a larger frame is refused.

    Raises:
        DecodeError: It is no clip, is damaged, or is of a kind that would not come out right.
        SourceReadError: It cannot be read.
    """
    with open_container(path) as container:
        stream = main_stream(container)
        width, height = stream.codec_context.width, stream.codec_context.height
        if max_pixels is not None and width * height > max_pixels:
            raise DecodeUnsupportedError(
                f"frames of {width}x{height} are over the limit of {max_pixels} pixels",
                hint="raise limits.max_pixels",
            )
        frame = _first_frame(container, stream)
        check_frame(frame, interlaced)
        if stream.metadata.get("alpha_mode") == "1":
            raise _alpha()
        return _clip(container, stream, frame)


def probe_for(path: Path, settings: Settings) -> Clip:
    """Read a clip's header under the rules of the settings; see `probe_clip`."""
    return probe_clip(
        path, interlaced=settings.video.interlaced, max_pixels=settings.limits.max_pixels
    )


def main_stream(container: InputContainer) -> VideoStream:
    """Return the first video stream that moves.

    Raises:
        DecodeUnsupportedError: There is none, or nothing here decodes it.
    """
    for stream in container.streams.video:
        if not stream.disposition & _ATTACHED_PICTURE and int(stream.discard) != _UNUSED:
            if stream.codec_context is None:
                raise DecodeUnsupportedError("its video codec is not known here")
            return stream
    raise DecodeUnsupportedError(
        "has no video stream", hint="varfix restores images, and copies sound"
    )


def check_frame(frame: VideoFrame, interlaced: str) -> None:
    """Refuse a frame that would not come out right.

    Raises:
        DecodeUnsupportedError: It is interlaced, HDR, transparent, or of a matrix not known here.
    """
    if frame.interlaced_frame and interlaced == "refuse":
        raise DecodeUnsupportedError(
            "is interlaced: two moments share each frame, and a model would smear them",
            hint="deinterlace it first (`ffmpeg -i CLIP -vf bwdif -c:a copy out.mkv`), or add"
            " `--set video.interlaced=ignore` if it is only marked so",
        )
    transfer = _HDR.get(int(frame.color_trc))
    if transfer is not None:
        raise DecodeUnsupportedError(
            f"is HDR ({transfer}): models know standard range only, and would shift its tones",
            hint="convert it to BT.709 first, for example with FFmpeg's filters zscale and tonemap",
        )
    if _has_alpha(frame):
        raise _alpha()
    if not _is_rgb(frame) and not known_matrix(int(frame.colorspace)):
        raise DecodeUnsupportedError(
            f"stores its colors by matrix {int(frame.colorspace)}, which varfix does not know",
            hint="convert it to BT.709 first",
        )


def _clip(container: InputContainer, stream: VideoStream, frame: VideoFrame) -> Clip:
    seconds = _seconds(container, stream)
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    rate = min(max(rate, _FEWEST), _MOST)
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
        end=None if stream.duration is None else (stream.start_time or 0) + stream.duration,
        seconds=seconds,
        aspect=stream.sample_aspect_ratio or None,
        display_matrix=_display_matrix(frame),
        tags=_tags(frame),
    )


def layout_of(frame: VideoFrame) -> Layout:
    """Return the planar layout that holds all of a frame's samples.

    RGB becomes Y'CbCr without sampling of color, and what samples it by four becomes by two.
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


def _is_rgb(frame: VideoFrame) -> bool:
    return bool(frame.format.is_rgb or frame.format.has_palette)


def _has_alpha(frame: VideoFrame) -> bool:
    name = frame.format.name
    return name.startswith(("yuva", "gbrap", "rgba", "bgra", "argb", "abgr", "ya", "pal8"))


def _alpha() -> DecodeUnsupportedError:
    return DecodeUnsupportedError(
        "is partly transparent, which restored clips cannot be",
        hint="put it on a background first",
    )


def _display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    for number in range(len(frame.side_data)):
        data = cast(Any, frame.side_data)[number]
        if data.type.name == "DISPLAYMATRIX":
            raw = bytes(data)
            parts = (raw[at : at + 4] for at in range(0, 36, 4))
            return tuple(int.from_bytes(part, "little", signed=True) for part in parts)
    return None


def _seconds(container: InputContainer, stream: VideoStream) -> Fraction | None:
    if stream.duration is not None and stream.time_base is not None:
        return stream.duration * stream.time_base
    said = _LENGTH.fullmatch(stream.metadata.get("DURATION", ""))
    if said is not None:
        return int(said[1]) * 3600 + int(said[2]) * 60 + Fraction(said[3])
    if container.duration is not None:
        return Fraction(container.duration, 1_000_000)
    return None


def _first_frame(container: InputContainer, stream: VideoStream) -> VideoFrame:
    import av.error

    try:
        for number, packet in enumerate(container.demux(stream)):
            for frame in packet.decode():
                return frame
            if number > _LONGEST_SEARCH:
                break
    except av.error.FFmpegError as error:
        raise DecodeTruncatedError(f"its first frame is damaged ({_reason(error)})") from error
    raise DecodeUnsupportedError("holds no frame")


def _check_ends(path: Path) -> None:
    """Refuse an empty file, and one whose containers promise more than there is."""
    with open_source(path) as file:
        size = file.seek(0, 2)
        if not size:
            raise DecodeEmptyError("empty file (0 bytes)")
        end = promised_end(file)
    if end is not None and end > size:
        raise DecodeTruncatedError(
            f"file ends early ({size:,} of {end:,} bytes are there)",
            hint="get it again; to restore what there is, copy that first with"
            " `ffmpeg -i CLIP -c copy part.mkv`",
        )


def _unopened(path: Path) -> DecodeUnknownError | DecodeTruncatedError:
    with open_source(path) as file:
        known = promised_end(file) is not None
    if known:
        return DecodeTruncatedError(
            "its index is missing or damaged: a recording that was never finished?",
            hint="get it again, or repair it first",
        )
    return DecodeUnknownError(
        "not a clip that varfix can read",
        hint="clips are mp4, mov, mkv, webm and avi; for an image use 'varfix image'",
    )


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
