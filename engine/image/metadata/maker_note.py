"""Detects maker notes that become invalid when they are moved.

A maker note contains the tags of a camera's manufacturer in a private structure. Many contain
offsets from the beginning of the EXIF block, which are wrong at another position.
"""

from __future__ import annotations

import struct
from typing import Final

from varfix.engine.image.metadata.exif_block import SIZES, Value

# First bytes of notes whose offsets count from the beginning of the note.
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
# A directory begins at once or after the manufacturer's name; the longest name has 26 bytes.
_STARTS: Final = range(0, 28, 2)
_MOST_ENTRIES: Final = 400
_LARGEST_VALUE: Final = 1 << 20


def breaks_when_moved(note: Value) -> bool:
    """Return whether a maker note contains offsets from the beginning of its block.

    Args:
        note: The note, with its offset in the block.
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
        Offset and length of each value outside of the entries; None if it is not a directory.
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
    """Return whether an offset is valid only from the beginning of the note."""
    end = len(note.data)
    in_block = note.at <= offset and offset + length <= note.at + end
    return offset + length <= end and not in_block
