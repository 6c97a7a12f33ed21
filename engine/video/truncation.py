"""Looks at a clip's outermost structure before any library does: whether its end is missing.

Libraries play a file that ends early as if it ended there. A container says how long its parts are,
so that a download broken off is known for what it is before hours are spent on the rest.
"""

from __future__ import annotations

import io
from typing import BinaryIO, Final

_EBML: Final = b"\x1a\x45\xdf\xa3"
_SEGMENT: Final = b"\x18\x53\x80\x67"
# The first box of an MP4 or QuickTime file is one of these.
_BOXES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid"})


def container_of(head: bytes) -> str | None:
    """Tell the kind of container by the first 12 bytes: `mp4`, `mkv`, `avi`, or None."""
    if head[:4] == _EBML:
        return "mkv"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    return "mp4" if head[4:8] in _BOXES else None


def promised_end(file: BinaryIO) -> int | None:
    """Return how long a file must be by what its containers say; None if they do not say.

    Args:
        file: the clip, from its beginning.
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


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Walk the outermost boxes; the last may reach over the end of the file."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length == 0:  # to the end of the file
            return size
        if length < 8:  # no box: what follows the last one is not ours to judge
            return at
        at += length
    return at


def _end_of_segment(file: BinaryIO) -> int | None:
    file.seek(4)
    length = _sized(file)
    if length is None:
        return None
    file.seek(length, io.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return None
    length = _sized(file)
    return None if length is None else file.tell() + length


def _sized(file: BinaryIO) -> int | None:
    """Read a size of EBML, which says by its first bits how long it is itself; None = unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    rest = file.read(more)
    value = int.from_bytes(bytes([first[0] & (0x7F >> more)]) + rest, "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value
