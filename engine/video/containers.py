"""Opens the containers of videos."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from varfix.engine.errors import (
    DecodeEmptyError,
    DecodeTruncatedError,
    DecodeUnknownError,
    DecodeUnsupportedError,
    VarfixError,
)
from varfix.engine.system.files import open_source
from varfix.engine.video.sources.animated_webp import decoded_webp, is_webp
from varfix.engine.video.sources.numbered_images import (
    DEFAULT_RATE,
    DEMUXER,
    is_pattern,
    numbered_images,
)
from varfix.engine.video.sources.truncation import expected_end, is_playable

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import InputContainer

# Demuxers of the supported containers, by FFmpeg's names.
_CONTAINERS: Final = (
    *("mov,mp4", "matroska,webm", "avi", "mpegts", "mpeg", "dv", "asf", "flv", "gif"),
    *("mxf", "ogg", "nut", "ivf", DEMUXER),
)
# Demuxers that FFmpeg may try, for messages that name the format. None of them opens further files,
# as playlists do.
_DEMUXERS: Final = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,ivf,mxf,dv,nut,y4m,wav,mp3,image2"
)
# A name such as `http:x.mp4` is a file, and no file can refer to another one.
_FILES_ONLY: Final = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}
_ATTACHED_PICTURE: Final = 0x400
_DISCARD_ALL: Final = 48  # FFmpeg's AVDISCARD_ALL: part of another stream (titles of chapters)


def av_path(path: Path) -> str:
    """Return a file's name for PyAV, which would read a bare `http:x.mp4` as an address."""
    return os.fspath(path.absolute())


@contextmanager
def open_container(path: Path, rate: Fraction = DEFAULT_RATE) -> Iterator[InputContainer]:
    """Open a video; translate PyAV's errors.

    Args:
        path: The file, or a pattern of numbered images.
        rate: Frames per second of numbered images.

    Raises:
        DecodeEmptyError: The file has no bytes.
        DecodeUnknownError: The file is not a video.
        DecodeTruncatedError: Its index or its end is missing.
        SourceReadError: It cannot be read.
    """
    import av
    import av.error

    images = numbered_images(path) if is_pattern(path) else None
    options = _FILES_ONLY
    if images is not None:
        options = {**options, "framerate": str(rate), "start_number": str(images.first)}
    elif is_webp(path):
        path = decoded_webp(path)
    else:
        _check_ends(path)
    try:
        container = av.open(
            images.address if images else av_path(path),
            format=DEMUXER if images else None,
            metadata_errors="replace",
            container_options=options,
        )
    except (av.error.InvalidDataError, av.error.ArgumentError) as error:
        raise _unopened(path) from error
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise DecodeUnknownError(f"cannot be opened as a video ({reason(error)})") from error
    with container:
        if not container.format.name.startswith(_CONTAINERS):
            raise DecodeUnsupportedError(
                f"container not supported ({container.format.name})",
                hint="copy it into mkv with `ffmpeg -i VIDEO -map 0 -c copy video.mkv`",
            )
        yield container


@contextmanager
def with_path(path: Path) -> Iterator[None]:
    """Put the file's name into the commands of hints."""
    try:
        yield
    except VarfixError as error:
        hint = error.hint.replace("VIDEO", shlex.quote(os.fspath(path)))
        raise error.reworded(hint=hint) from error


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


def _check_ends(path: Path) -> None:
    """Reject an empty file, and a file that is shorter than its container states."""
    with open_source(path) as file:
        size = file.seek(0, 2)
        if not size:
            raise DecodeEmptyError("empty file (0 bytes)")
        end = expected_end(file)
        if end is None or end <= size:
            return
        hint = "get a complete copy"
        if is_playable(file):
            hint += (
                "; to restore the existing part, extract it with `ffmpeg -i VIDEO -c copy part.mkv`"
            )
        else:
            hint += ": the index, without which nothing can be played, was in the missing part"
    raise DecodeTruncatedError(f"file ends early ({size:,} of {end:,} bytes)", hint=hint)


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
        hint="use a video such as mp4, mov, mkv, avi or mts; for an image run 'varfix image'",
    )


def reason(error: Exception) -> str:
    """Return FFmpeg's text of an error."""
    return (getattr(error, "strerror", None) or str(error)).lower()
