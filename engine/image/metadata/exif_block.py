"""Parses and packs EXIF blocks and TIFF directories.

Values are not interpreted: texts keep their encoding, fields keep their types, and maker notes keep
their bytes. Pillow and tifffile would convert texts to ASCII.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

PREFIX: Final = b"Exif\x00\x00"

EXIF_POINTER, GPS_POINTER, INTEROP_POINTER = 0x8769, 0x8825, 0xA005
MAKER_NOTE: Final = 0x927C

# Bytes per value of each field type of TIFF 6 and of BigTIFF.
SIZES: Final = {
    **{1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4},
    **{16: 8, 17: 8, 18: 8},
}
BYTE, ASCII, SHORT, LONG, UNDEFINED = 1, 2, 3, 4, 7
# A classic directory cannot hold the types that BigTIFF added.
_CLASSIC: Final = range(1, 14)
_MOST_ENTRIES: Final = 4096
_HEADERS: Final = {b"II*\x00": ("<", False), b"MM\x00*": (">", False)}
_BIG_HEADERS: Final = {b"II+\x00": ("<", True), b"MM\x00+": (">", True)}


@dataclass(frozen=True)
class Value:
    """The value of one tag.

    Attributes:
        kind: Field type of TIFF.
        count: Number of values.
        data: Bytes of the values, in the byte order of the block.
        at: Offset of these bytes in the block or file from which they were read.
    """

    kind: int
    count: int
    data: bytes
    at: int = 0


Directory = dict[int, Value]


@dataclass(frozen=True)
class ExifBlock:
    """The directories of an EXIF block, without pointers to each other.

    Attributes:
        order: Byte order as `struct` writes it, `<` or `>`.
        main: Tags about the image: camera, date, author; in a TIFF also about its samples.
        exif: Tags about the exposure.
        gps: Tags about the position.
        interop: Tags about interoperability.
    """

    order: str
    main: Directory = field(default_factory=dict)
    exif: Directory = field(default_factory=dict)
    gps: Directory = field(default_factory=dict)
    interop: Directory = field(default_factory=dict)


def byte_order(head: bytes) -> tuple[str, bool]:
    """Return the byte order of a TIFF structure, and whether it is a BigTIFF.

    Raises:
        ValueError: The data does not begin with a TIFF header.
    """
    found = (_HEADERS | _BIG_HEADERS).get(bytes(head[:4]))
    if found is None:
        raise ValueError("not a TIFF structure")
    return found


def parse(block: bytes) -> ExifBlock:
    """Parse an EXIF block, with or without its `Exif` prefix.

    Raises:
        ValueError: The block is damaged.
    """
    block = block.removeprefix(PREFIX)
    order, big = byte_order(block)
    if big:
        raise ValueError("an EXIF block cannot be a BigTIFF")
    try:
        return read_directories(block, [struct.unpack_from(f"{order}I", block, 4)[0]])
    except struct.error as error:
        raise ValueError("the EXIF block is damaged") from error


def read_directories(data: bytes, offsets: list[int]) -> ExifBlock:
    """Read directories of a TIFF structure, and the EXIF and GPS directories that they refer to.

    Args:
        data: The whole structure.
        offsets: Offsets of main directories; tags of later directories override earlier ones.

    Raises:
        ValueError: The data has no TIFF header, or a main directory is damaged.
    """
    reader = _DirectoryReader(data)
    main: Directory = {}
    for offset in offsets:
        main |= reader.directory(offset)
    exif = reader.linked(main.pop(EXIF_POINTER, None))
    gps = reader.linked(main.pop(GPS_POINTER, None))
    interop = reader.linked(exif.pop(INTEROP_POINTER, None))
    return ExifBlock(reader.order, main, exif, gps, interop)


class _DirectoryReader:
    """Reads directories of one TIFF structure."""

    def __init__(self, data: bytes) -> None:
        self.order, self._big = byte_order(data)
        self._data = data

    def directory(self, at: int) -> Directory:
        """Read a directory; skip values outside of the data.

        Raises:
            ValueError: The directory itself is truncated.
        """
        head, form, inline = ("Q", "HHQ", 8) if self._big else ("H", "HHI", 4)
        step = struct.calcsize(f"={form}") + inline
        try:
            (count,) = struct.unpack_from(self.order + head, self._data, at)
            if count > _MOST_ENTRIES:
                raise ValueError("a TIFF directory is damaged")
            start = at + struct.calcsize(f"={head}")
            places = range(start, start + count * step, step)
            entries = [struct.unpack_from(self.order + form, self._data, place) for place in places]
        except struct.error as error:
            raise ValueError("a TIFF directory is truncated") from error
        found: Directory = {}
        for place, (tag, kind, number) in zip(places, entries, strict=True):
            value = self._value(kind, number, place + step - inline, inline)
            if value is not None:
                found.setdefault(tag, value)
        return found

    def _value(self, kind: int, count: int, at: int, inline: int) -> Value | None:
        length = SIZES.get(kind, 0) * count
        if length == 0:
            return None
        if length > inline:
            form = "Q" if self._big else "I"
            if at + inline > len(self._data):
                return None
            (at,) = struct.unpack_from(self.order + form, self._data, at)
        data = self._data[at : at + length]
        return Value(kind, count, bytes(data), at) if len(data) == length else None

    def linked(self, pointer: Value | None) -> Directory:
        """Read the directory that a tag refers to; empty if the tag is None or data is damaged."""
        if pointer is None or pointer.count != 1 or len(pointer.data) not in (4, 8):
            return {}
        form = "I" if len(pointer.data) == 4 else "Q"
        try:
            return self.directory(struct.unpack(self.order + form, pointer.data)[0])
        except ValueError:
            return {}


def pack(block: ExifBlock) -> bytes:
    """Pack an EXIF block, without prefix.

    Raises:
        ValueError: A value has a type that only BigTIFF supports.
    """
    order = block.order
    head = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(f"{order}I", 8)
    links = {
        code: directory
        for code, directory in ((EXIF_POINTER, block.exif), (GPS_POINTER, block.gps))
        if directory
    }
    main = block.main | {code: pointer(order, 0) for code in links}
    at = 8 + len(lay_out(main, order, 8))
    parts = []
    for code, directory in links.items():
        main[code] = pointer(order, at)
        inner = block.interop if code == EXIF_POINTER else {}
        parts.append(with_interop(directory, inner, order, at))
        at += len(parts[-1])
    return head + lay_out(main, order, 8) + b"".join(parts)


def with_interop(directory: Directory, interop: Directory, order: str, at: int) -> bytes:
    """Return the bytes of a directory at offset `at`, and of its interoperability directory."""
    if not interop:
        return lay_out(directory, order, at)
    length = len(lay_out(directory | {INTEROP_POINTER: pointer(order, 0)}, order, at))
    whole = directory | {INTEROP_POINTER: pointer(order, at + length)}
    return lay_out(whole, order, at) + lay_out(interop, order, at + length)


def pointer(order: str, at: int) -> Value:
    """Return the value of a tag that refers to a directory at offset `at`."""
    return Value(LONG, 1, struct.pack(f"{order}I", at))


def lay_out(directory: Directory, order: str, at: int) -> bytes:
    """Return the bytes of a directory at offset `at`, followed by its values.

    Raises:
        ValueError: A value has a type that only BigTIFF supports.
    """
    entries = [struct.pack(f"{order}H", len(directory))]
    overflow = b""
    overflow_at = at + 2 + 12 * len(directory) + 4
    for tag, value in sorted(directory.items()):
        if value.kind not in _CLASSIC:
            raise ValueError("a value of a BigTIFF does not fit an EXIF block")
        entries.append(struct.pack(f"{order}HHI", tag, value.kind, value.count))
        if len(value.data) <= 4:
            entries.append(value.data.ljust(4, b"\x00"))
        else:
            entries.append(struct.pack(f"{order}I", overflow_at + len(overflow)))
            overflow += value.data + bytes(len(value.data) % 2)
    return b"".join(entries) + bytes(4) + overflow


def with_tag(block: bytes, tag: int, value: Value) -> bytes:
    """Return an EXIF block with a tag added to its main directory.

    The directory is written again at the end. All other data keeps its offset, so that maker notes
    stay valid.

    Raises:
        ValueError: The block is damaged.
    """
    order, entries, link = _main_entries(block)
    packed = struct.pack(f"{order}HHI", tag, value.kind, value.count)
    out = bytearray(block) + bytes(len(block) % 2)
    if len(value.data) <= 4:
        packed += value.data.ljust(4, b"\x00")
    else:
        packed += struct.pack(f"{order}I", len(out))
        out += value.data + bytes(len(value.data) % 2)
    struct.pack_into(f"{order}I", out, 4, len(out))
    ordered = sorted([*entries, packed], key=lambda entry: struct.unpack_from(f"{order}H", entry))
    return bytes(out) + struct.pack(f"{order}H", len(ordered)) + b"".join(ordered) + link


def without_tags(block: bytes, codes: Container[int]) -> bytes:
    """Return an EXIF block without some tags of its main directory; other data keeps its offset.

    Raises:
        ValueError: The block is damaged.
    """
    order, entries, link = _main_entries(block)
    if not any(struct.unpack_from(f"{order}H", entry)[0] in codes for entry in entries):
        return block
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] not in codes]
    (at,) = struct.unpack_from(f"{order}I", block, 4)
    length = 2 + 12 * len(entries) + len(link)
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + link
    return block[:at] + directory.ljust(length, b"\x00") + block[at + length :]


def _main_entries(block: bytes) -> tuple[str, list[bytes], bytes]:
    """Return the byte order, the entries of the main directory, and the link to the next one."""
    order, big = byte_order(block)
    try:
        (at,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, at)
    except struct.error as error:
        raise ValueError("the EXIF block is damaged") from error
    end = at + 2 + 12 * count
    if big or end > len(block):
        raise ValueError("the EXIF block is damaged")
    entries = [block[start : start + 12] for start in range(at + 2, end, 12)]
    return order, entries, block[end : end + 4].ljust(4, b"\x00")
