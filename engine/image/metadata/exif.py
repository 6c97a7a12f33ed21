"""Corrects EXIF after the image was turned upright.

The bytes are patched in place. A rebuilt block would break maker notes, which contain offsets into
the block.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from varfix.engine.image.metadata.exif_block import PREFIX
from varfix.engine.image.metadata.resolution import ACROSS, DOWN

ORIENTATION: Final = 0x0112
_WIDTHS: Final = (0x0100, 0xA002)
_HEIGHTS: Final = (0x0101, 0xA003)
_EXIF_IFD: Final = 0x8769
_THUMBNAIL_OFFSET: Final = 0x0201
_THUMBNAIL_LENGTH: Final = 0x0202

# Field types of integers, with their `struct` codes: programs write any of them.
_NUMBERS: Final = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I"}


@dataclass(frozen=True)
class _Entry:
    tag: int
    kind: int
    value_at: int


def upright_exif(exif: bytes, width: int, height: int) -> bytes:
    """Return EXIF for the upright image: orientation 1, its size, no thumbnail.

    Args:
        exif: TIFF-structured block, with or without the `Exif` prefix.
        width: Width of the upright image in pixels.
        height: Height of the upright image in pixels.

    Returns:
        The block without prefix; all other data keeps its offset.

    Raises:
        ValueError: The block is damaged.
    """
    block = bytearray(exif.removeprefix(PREFIX))
    try:
        order, first = _start(block)
        _patch_directory(block, order, first, (width, height))
        _drop_thumbnail(block, order, first)
    except (KeyError, struct.error) as error:
        raise ValueError("the EXIF block is damaged") from error
    return bytes(block)


def orientation_of(exif: bytes) -> int:
    """Return the orientation in an EXIF block, 1 to 8; 1 if it is missing or invalid."""
    block = bytearray(exif.removeprefix(PREFIX))
    try:
        order, first = _start(block)
        for entry in _entries(block, order, first):
            if entry.tag == ORIENTATION:
                value = _get(block, order, entry)
                return value if 1 <= value <= 8 else 1
    except (KeyError, struct.error):
        pass
    return 1


def _start(block: bytearray) -> tuple[str, int]:
    """Return the byte order, as `struct` writes it, and the offset of the first directory."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}[bytes(block[:4])]
    return order, struct.unpack_from(f"{order}I", block, 4)[0]


def _entries(block: bytearray, order: str, at: int) -> Iterator[_Entry]:
    count = struct.unpack_from(f"{order}H", block, at)[0]
    for index in range(count):
        entry_at = at + 2 + 12 * index
        tag, kind = struct.unpack_from(f"{order}HH", block, entry_at)
        struct.unpack_from(f"{order}I", block, entry_at + 8)  # raises if the entry is truncated
        yield _Entry(tag, kind, entry_at + 8)


def _patch_directory(block: bytearray, order: str, at: int, size: tuple[int, int]) -> None:
    inner = 0
    _turn_resolution(block, order, list(_entries(block, order, at)))
    for entry in _entries(block, order, at):
        if entry.tag == _EXIF_IFD:
            inner = _get(block, order, entry)
        elif entry.tag == ORIENTATION:
            _put(block, order, entry, 1)
        else:
            _patch_size(block, order, entry, size)
    if inner:
        for entry in _entries(block, order, inner):
            _patch_size(block, order, entry, size)


def _turn_resolution(block: bytearray, order: str, entries: list[_Entry]) -> None:
    """Exchange the horizontal and the vertical resolution if the image gets a quarter turn."""
    found = {entry.tag: entry for entry in entries}
    turn, across, down = (found.get(tag) for tag in (ORIENTATION, ACROSS, DOWN))
    if not (turn and across and down and across.kind == down.kind):
        return
    if _get(block, order, turn) in range(5, 9):
        one, two = (slice(entry.value_at, entry.value_at + 4) for entry in (across, down))
        block[one], block[two] = block[two], block[one]


def _patch_size(block: bytearray, order: str, entry: _Entry, size: tuple[int, int]) -> None:
    if entry.tag in _WIDTHS:
        _put(block, order, entry, size[0])
    elif entry.tag in _HEIGHTS:
        _put(block, order, entry, size[1])


def _drop_thumbnail(block: bytearray, order: str, first: int) -> None:
    """Unlink the second directory and erase the image it points to."""
    count = struct.unpack_from(f"{order}H", block, first)[0]
    link = first + 2 + 12 * count
    if link + 4 > len(block):
        return  # some writers omit the link
    second = struct.unpack_from(f"{order}I", block, link)[0]
    struct.pack_into(f"{order}I", block, link, 0)
    if second == 0:
        return
    try:
        found = {e.tag: _get(block, order, e) for e in _entries(block, order, second)}
    except struct.error:
        return  # already unlinked; nothing readable remains to erase
    start, length = found.get(_THUMBNAIL_OFFSET, 0), found.get(_THUMBNAIL_LENGTH, 0)
    if start < 8 or length <= 0 or start + length > len(block):
        return
    block[start : start + length] = bytes(length)
    if not any(block[start:]):
        del block[start:]


def _get(block: bytearray, order: str, entry: _Entry) -> int:
    code = _NUMBERS.get(entry.kind, "I")
    return int(struct.unpack_from(f"{order}{code}", block, entry.value_at)[0])


def _put(block: bytearray, order: str, entry: _Entry, value: int) -> None:
    code = _NUMBERS.get(entry.kind)
    if code is not None:
        most = 2 ** (8 * struct.calcsize(code) - code.islower()) - 1
        struct.pack_into(f"{order}{code}", block, entry.value_at, min(value, most))
