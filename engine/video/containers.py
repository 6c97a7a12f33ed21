"""Opens the containers of videos."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
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
from varfix.engine.video.truncation import expected_end, is_playable

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import InputContainer

# Demuxers of the supported containers, by FFmpeg's names.
_CONTAINERS: Final = (
    *("mov,mp4", "matroska,webm", "avi", "mpegts", "mpeg", "dv", "asf", "flv", "gif"),
    *("mxf", "ogg", "nut", "ivf"),
)
# Demuxers that FFmpeg may try, for messages that name the format. None of them opens further files,
# as playlists do.
_DEMUXERS: Final = (
    "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,gif,ivf,mxf,dv,nut,y4m,wav,mp3"
)
# A name such as `http:x.mp4` is a file, and no file can refer to another one.
_FILES_ONLY: Final = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}
_ATTACHED_PICTURE: Final = 0x400
_DISCARD_ALL: Final = 48  # FFmpeg's AVDISCARD_ALL: part of another stream (titles of chapters)


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
        raise DecodeUnknownError(f"cannot be opened as a video ({reason(error)})") from error
    with container:
        if not container.format.name.startswith(_CONTAINERS):
            raise DecodeUnsupportedError(
                f"container not supported ({container.format.name})",
                hint="copy it into mp4, mov, mkv, webm or avi, for example with"
                " `ffmpeg -i VIDEO -c copy video.mkv`",
            )
        yield container


@contextmanager
def with_path(path: Path) -> Iterator[None]:
    """Put the file's name into the commands of hints."""
    try:
        yield
    except VarfixError as error:
        error.hint = error.hint and error.hint.replace("VIDEO", shlex.quote(os.fspath(path)))
        raise


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
    """Reject an empty file, and one that is shorter than its container says."""
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
        hint="use mp4, mov, mkv, webm or avi; for an image run 'varfix image'",
    )


def reason(error: Exception) -> str:
    """Return FFmpeg's text of an error."""
    return (getattr(error, "strerror", None) or str(error)).lower()
