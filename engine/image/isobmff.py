"""Reads the items of AVIF and HEIC files (ISO 23008-12): positions of the coded data, and colors.

Pillow and libheif decode the items, but they report neither the colors that an AVIF states without
a profile nor that the end of the data is missing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

# Boxes whose payload begins with a version and flags.
_FULL: Final = 4
_CODED: Final = frozenset({b"av01", b"hvc1", b"hev1", b"avc1", b"jpeg"})
_MOST: Final = 65536
_VIDEO: Final = frozenset({b"mpvd", b"moov"})

RGB_MATRIX: Final = 0
"""Matrix coefficients of colors that are stored as RGB (ITU-T H.273)."""

Box = tuple[bytes, int, int]


@dataclass
class BoxItem:
    """One item of a file.

    Attributes:
        kind: Four-character code: `av01`, `hvc1`, `grid`, `Exif`, ….
        extents: Offset in the file and length of each part of its data.
        properties: Type and payload of each property of the item.
    """

    kind: bytes = b""
    extents: list[tuple[int, int]] = field(default_factory=list)
    properties: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass
class Items:
    """The items of a file.

    Attributes:
        primary: Number of the main image.
        items: Items by their numbers.
    """

    primary: int = 0
    items: dict[int, BoxItem] = field(default_factory=dict)

    def item(self, number: int) -> BoxItem:
        """Return the item with a number; create it if it does not exist."""
        return self.items.setdefault(number, BoxItem())

    @property
    def cicp(self) -> tuple[int, int] | None:
        """Color primaries and transfer characteristics of the main image (ITU-T H.273), if any."""
        codes = self._code_points()
        return None if codes is None else codes[:2]

    @property
    def matrix(self) -> int | None:
        """Matrix coefficients of the main image (ITU-T H.273), if any."""
        codes = self._code_points()
        return None if codes is None else codes[2]

    def _code_points(self) -> tuple[int, int, int] | None:
        for kind, payload in self.item(self.primary).properties:
            if kind == b"colr" and payload[:4] == b"nclx" and len(payload) >= 10:
                primaries, transfer, matrix = struct.unpack_from(">HHH", payload, 4)
                return int(primaries), int(transfer), int(matrix)
        return None

    def coded_extents(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the extents of each coded image or tile."""
        for item in self.items.values():
            if item.kind in _CODED and item.extents:
                yield item.extents


def read_items(data: bytes) -> Items:
    """Read the items of a file; stop at the first error."""
    found = Items()
    for kind, start, end in _boxes(data, 0, len(data)):
        if kind == b"meta":
            _read_meta(data, start + _FULL, end, found)
    return found


def has_video(data: bytes) -> bool:
    """Return whether a video is appended to an image, as in the motion photos of phones.

    It has a box of its own (`mpvd`), or is a whole file with a movie behind the image.
    """
    return any(kind in _VIDEO for kind, _start, _end in _boxes(data, 0, len(data)))


def _read_meta(data: bytes, start: int, end: int, found: Items) -> None:
    inner = {kind: (at, behind) for kind, at, behind in _boxes(data, start, end)}
    shift = inner.get(b"idat", (0, 0))[0]
    try:
        if b"pitm" in inner:
            at = inner[b"pitm"][0]
            form = ">H" if data[at] == 0 else ">I"
            (found.primary,) = struct.unpack_from(form, data, at + _FULL)
        if b"iinf" in inner:
            _read_kinds(data, *inner[b"iinf"], found)
        if b"iloc" in inner:
            _read_locations(data, *inner[b"iloc"], found, shift)
        if b"iprp" in inner:
            _read_properties(data, *inner[b"iprp"], found)
    except (struct.error, IndexError):
        return  # the decoder will report it


def _boxes(data: bytes, start: int, end: int) -> Iterator[Box]:
    """Yield the type, and the start and end of the payload, of each box in a range."""
    while start + 8 <= end:
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1 and start + 16 <= end:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        behind = end if length == 0 else start + length
        if behind < start + head:
            return
        yield kind, start + head, min(behind, end)
        start = behind


def _read_kinds(data: bytes, start: int, end: int, found: Items) -> None:
    at = start + _FULL + (2 if data[start] == 0 else 4)
    for kind, inner, _behind in _boxes(data, at, end):
        if kind == b"infe" and data[inner] >= 2:
            wide = data[inner] > 2
            (number,) = struct.unpack_from(">I" if wide else ">H", data, inner + _FULL)
            name = inner + _FULL + (4 if wide else 2) + 2
            found.item(number).kind = data[name : name + 4]


class _Cursor:
    """Reads consecutive numbers of a box."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self._data, self._at, self._end = data, at, end

    def number(self, size: int) -> int:
        """Return the next number of `size` bytes; 0 if `size` is 0.

        Raises:
            IndexError: The box ends before.
        """
        if self._at + size > self._end:
            raise IndexError("a box is cut short")
        self._at += size
        return int.from_bytes(self._data[self._at - size : self._at], "big")


def _read_locations(data: bytes, start: int, end: int, found: Items, shift: int) -> None:
    """Read the item location box; `shift` is the offset of the inline data."""
    version = data[start]
    cursor = _Cursor(data, start + _FULL, end)
    sizes = cursor.number(2)
    offset, length, base, index = (sizes >> bits & 15 for bits in (12, 8, 4, 0))
    wide = 4 if version == 2 else 2
    for _ in range(min(cursor.number(wide), _MOST)):
        item = found.item(cursor.number(wide))
        method = cursor.number(2) & 15 if version else 0
        cursor.number(2)
        origin = cursor.number(base) + (shift if method == 1 else 0)
        extents = cursor.number(2)
        # An extent without numbers takes no bytes and means the whole file: more than one such
        # extent per item would let a small file cause a long loop.
        for _ in range(extents if offset or length else min(extents, 1)):
            if version and index:
                cursor.number(index)
            place = origin + cursor.number(offset)
            extent = place, cursor.number(length)
            if method < 2:
                item.extents.append(extent)


def _read_properties(data: bytes, start: int, end: int, found: Items) -> None:
    inner = list(_boxes(data, start, end))
    properties: list[tuple[bytes, bytes]] = []
    for kind, at, behind in inner:
        if kind == b"ipco":
            properties = [(name, data[a:b]) for name, a, b in _boxes(data, at, behind)]
    for kind, at, behind in inner:
        if kind == b"ipma":
            _read_associations(data, (at, behind), found, properties)


def _read_associations(
    data: bytes, box: tuple[int, int], found: Items, properties: list[tuple[bytes, bytes]]
) -> None:
    start, end = box
    version, wide = data[start], data[start + 3] & 1
    cursor = _Cursor(data, start + _FULL, end)
    for _ in range(min(cursor.number(4), _MOST)):
        item = found.item(cursor.number(2 if version == 0 else 4))
        for _ in range(cursor.number(1)):
            place = cursor.number(2) & 0x7FFF if wide else cursor.number(1) & 0x7F
            if 0 < place <= len(properties):
                item.properties.append(properties[place - 1])
