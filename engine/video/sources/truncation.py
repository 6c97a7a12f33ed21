"""Checks the outermost structure of a video file for a missing end.

Libraries play a truncated file as if it ended there. Containers store the length of their parts, so
an interrupted download is detected before hours are spent on the rest.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, Final

_EBML: Final = b"\x1a\x45\xdf\xa3"
_SEGMENT: Final = b"\x18\x53\x80\x67"
# The first box of an MP4 or QuickTime file is one of these.
_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid"})


def container_of(head: bytes) -> str | None:
    """Return the kind of container by its first 12 bytes: `mp4`, `mkv`, `avi`, or None."""
    if head[:4] == _EBML:
        return "mkv"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return "mp4" if head[4:8] in _BOXES else None


def expected_end(file: BinaryIO) -> int | None:
    """Return the length of a file in bytes according to its container; None if unknown.

    Args:
        file: The whole file.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    kind = container_of(head)
    if kind == "avi":
        return 8 + int.from_bytes(head[4:8], "little")
    if kind == "mkv":
        return _end_of_segment(file)
    return _end_of_boxes(file, size) if kind == "mp4" else None


def is_playable(file: BinaryIO) -> bool:
    """Return whether the existing part of a truncated file can be played.

    MP4 and QuickTime files need their index, which many recorders write at the end.

    Args:
        file: The existing part.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if container_of(file.read(12)) != "mp4":
        return True
    return any(kind == b"moov" and end <= size for kind, end in _boxes(file, size))


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Return the end of the last outermost box, which may be after the end of the file."""
    return max((end for _, end in _boxes(file, size)), default=0)


def _boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int]]:
    """Yield type and end of the outermost boxes."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # to the end of the file
            length = size - at
        if length < 8:  # not a box: ignore data after the last one
            return
        at += length
        yield head[4:8], at


def _end_of_segment(file: BinaryIO) -> int | None:
    file.seek(4)
    length = _read_size(file)
    if length is None:
        return None
    file.seek(length, io.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return None
    length = _read_size(file)
    return None if length is None else file.tell() + length


def _read_size(file: BinaryIO) -> int | None:
    """Read an EBML size, whose first bits give its own length; None for an unknown size."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    rest = file.read(more)
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + rest, "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value
