"""Maker notes: the tags of a camera's maker, in a structure of the maker's own.

Many point into the block that holds them by offsets from its beginning. Such a note is true only
where it was written: moved to another place, its pointers lead into other data.
"""

from __future__ import annotations

import struct
from typing import Final

from varfix.engine.image.metadata.exif_block import SIZES, Value

# Notes whose offsets count from their own beginning, by how they begin.
_SELF_CONTAINED: Final = (
    b"Nikon\x00\x02",
    b"OLYMPUS\x00",
    b"OM SYSTEM\x00",
    b"FUJIFILM",
    b"Apple iOS\x00",
    b"PENTAX \x00",
    b"II*\x00",
    b"MM\x00*",
)
# A directory begins at once or behind the maker's name; the longest name takes 26 bytes.
_STARTS: Final = range(0, 28, 2)
_MOST_ENTRIES: Final = 400
_LARGEST_VALUE: Final = 1 << 20


def breaks_when_moved(note: Value) -> bool:
    """Tell whether a maker note holds offsets that count from the beginning of its block.

    Args:
        note: With the offset at which it was found.
    """
    if note.data.startswith(_SELF_CONTAINED):
        return False
    for start in _STARTS:
        for order in "<>":
            values = _outer_values(note.data, start, order)
            if values is not None:
                return any(not _is_inside_note(note, *value) for value in values)
    return False


def _outer_values(data: bytes, start: int, order: str) -> list[tuple[int, int]] | None:
    """Read a note as a directory that begins at `start`.

    Returns:
        Offset and length of each value that lies outside of its entry; None = it is no directory.
    """
    if len(data) < start + 2:
        return None
    (count,) = struct.unpack_from(f"{order}H", data, start)
    if not 0 < count <= _MOST_ENTRIES or start + 2 + 12 * count > len(data):
        return None
    values = []
    for index in range(count):
        entry = struct.unpack_from(f"{order}HHII", data, start + 2 + 12 * index)
        _tag, kind, number, offset = entry
        length = SIZES.get(kind, 0) * number
        if kind not in SIZES or kind > 13 or length > _LARGEST_VALUE:
            return None
        if length > 4:
            values.append((offset, length))
    return values


def _is_inside_note(note: Value, offset: int, length: int) -> bool:
    """Tell whether an offset can only be meant from the beginning of the note itself."""
    end = len(note.data)
    in_block = note.at <= offset and offset + length <= note.at + end
    return offset + length <= end and not in_block
