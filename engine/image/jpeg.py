"""Reads and writes JPEG segments that Pillow does not handle, and detects unsupported codings."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final

_SCAN: Final = 0xDA
_END: Final = b"\xff\xd9"
_START_OF_SCAN: Final = b"\xff\xda"
_FIRST_APP, _LAST_APP = 0xE0, 0xEF
_APP1, _APP2, _RESOURCES, _COMMENT = 0xE1, 0xE2, 0xED, 0xFE
_JFIF: Final = b"JFIF\x00"
# Unit and densities, in the segment behind its identifier and its version.
_DENSITY: Final = struct.Struct(">BHH")
_DENSITY_PLACE: Final = len(_JFIF) + 2
_PHOTOSHOP: Final = b"Photoshop 3.0\x00"
_EXTENSION: Final = b"http://ns.adobe.com/xmp/extension/\x00"
_SEVERAL: Final = b"MPF\x00"
_MAX_PAYLOAD: Final = 65533
# Identifier, length of the whole packet, and offset of this part.
_EXTENSION_HEAD: Final = len(_EXTENSION) + 32 + 8
# Marker that ends the coded data of a scan: not a stuffed byte, restart marker or padding.
_MARKER: Final = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")

_FRAMES: Final[dict[int, str]] = {
    0xC0: "baseline",
    0xC1: "extended",
    0xC2: "progressive",
    0xC3: "lossless",
    0xC5: "hierarchical",
    0xC6: "hierarchical",
    0xC7: "hierarchical",
    0xC9: "arithmetic-coded",
    0xCA: "arithmetic-coded",
    0xCB: "lossless arithmetic-coded",
    0xCD: "hierarchical",
    0xCE: "hierarchical",
    0xCF: "hierarchical",
}
_USUAL: Final = ("baseline", "extended", "progressive")

# Marker and payload.
Segment = tuple[int, bytes]


def unusual_coding(data: bytes) -> str | None:
    """Return the depth or process of a JPEG if it is unusual, for messages; else None."""
    for marker, start, end in _segments(data):
        if marker in _FRAMES and end > start:
            if data[start] != 8:
                return f"{data[start]}-bit"
            name = _FRAMES[marker]
            return None if name in _USUAL else name
    return None


def end_of_first_image(data: bytes) -> int | None:
    """Return the offset after the end marker of the first image; None if the marker is missing.

    Thumbnails in segments, and images and videos that are appended to the file, also contain end
    markers; they are skipped.
    """
    at = 2
    for scan in scans(data):
        at = scan[2]
    at = _behind_segments(data, at)
    return at + 2 if data[at : at + 2] == _END else None


def scans(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the offsets of the header, of the coded data and of the end of each scan."""
    at = _behind_segments(data, 2)
    while data[at : at + 2] == _START_OF_SCAN:
        coded = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        found = _MARKER.search(data, coded)
        end = len(data) if found is None else found.start()
        yield at + 4, coded, end
        at = _behind_segments(data, end)


def _behind_segments(data: bytes, at: int) -> int:
    """Return the offset after the segments that begin at `at`."""
    for segment in _segments(data, at):
        at = segment[2]
    return at


def without_metadata(data: bytes, end: int) -> bytes:
    """Return the first image, which ends at `end`, without application segments and comments."""
    parts, at = [data[:2]], 2
    for marker, start, behind in _segments(data):
        if not (_FIRST_APP <= marker <= _LAST_APP or marker == _COMMENT):
            parts.append(data[start - 4 : behind])
        at = behind
    return b"".join((*parts, data[at:end]))


def resources_of(data: bytes) -> bytes:
    """Return the Photoshop image resources of a JPEG; empty if it has none."""
    found = _payloads(data, _RESOURCES, _PHOTOSHOP)
    return b"".join(part.removeprefix(_PHOTOSHOP) for part in found)


def comments_of(data: bytes) -> tuple[bytes, ...]:
    """Return the comments of a JPEG."""
    return tuple(text for text in _payloads(data, _COMMENT, b"") if text.strip(b"\x00 "))


def density_of(data: bytes) -> tuple[int, int, int] | None:
    """Return the unit and the densities in the JFIF segment of a JPEG; None without a segment."""
    place = _density_place(data)
    return _DENSITY.unpack_from(data, place) if place else None


def with_density(data: bytes, unit: int, across: int, down: int) -> bytes:
    """Return the file with other densities in its JFIF segment; as it is without a segment."""
    place = _density_place(data)
    if place is None:
        return data
    fields = _DENSITY.pack(unit, across, down)
    return data[:place] + fields + data[place + len(fields) :]


def _density_place(data: bytes) -> int | None:
    for marker, start, end in _segments(data):
        place = start + _DENSITY_PLACE
        if marker == _FIRST_APP and data.startswith(_JFIF, start):
            return place if place + _DENSITY.size <= min(end, len(data)) else None
    return None


def has_several_images(data: bytes) -> bool:
    """Return whether a JPEG lists images that are appended to it (CIPA DC-007)."""
    return bool(_payloads(data, _APP2, _SEVERAL))


def extended_xmp_of(data: bytes) -> dict[bytes, bytes]:
    """Return the extended XMP packets of a JPEG by the identifiers in its main packet."""
    parts: dict[bytes, dict[int, bytes]] = {}
    for payload in _payloads(data, _APP1, _EXTENSION):
        if len(payload) >= _EXTENSION_HEAD:
            name = payload[len(_EXTENSION) : len(_EXTENSION) + 32]
            (offset,) = struct.unpack_from(">I", payload, _EXTENSION_HEAD - 4)
            parts.setdefault(name, {})[offset] = payload[_EXTENSION_HEAD:]
    return {
        name: b"".join(part for _offset, part in sorted(found.items()))
        for name, found in parts.items()
    }


def extended_xmp(name: bytes, packet: bytes) -> list[Segment]:
    """Pack an extended XMP packet into segments."""
    room = _MAX_PAYLOAD - _EXTENSION_HEAD
    return [
        (
            _APP1,
            _EXTENSION + name + struct.pack(">II", len(packet), at) + packet[at : at + room],
        )
        for at in range(0, len(packet), room)
    ]


def resources(series: bytes) -> list[Segment]:
    """Pack Photoshop image resources into segments."""
    room = _MAX_PAYLOAD - len(_PHOTOSHOP)
    return [(_RESOURCES, _PHOTOSHOP + series[at : at + room]) for at in range(0, len(series), room)]


def comment(text: bytes) -> list[Segment]:
    """Pack a comment, in as many segments as it needs."""
    return [(_COMMENT, text[at : at + _MAX_PAYLOAD]) for at in range(0, len(text), _MAX_PAYLOAD)]


def insert(data: bytes, extra: list[Segment]) -> bytes:
    """Return the file with segments inserted after its application segments."""
    at = 2
    for marker, _start, end in _segments(data):
        if not _FIRST_APP <= marker <= _LAST_APP:
            break
        at = end
    packed = b"".join(
        struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload for marker, payload in extra
    )
    return data[:at] + packed + data[at:]


def _payloads(data: bytes, wanted: int, head: bytes) -> list[bytes]:
    """Return the payloads that begin with `head` of all segments with a marker."""
    return [
        data[start:end]
        for marker, start, end in _segments(data)
        if marker == wanted and data.startswith(head, start)
    ]


def _segments(data: bytes, at: int = 2) -> Iterator[tuple[int, int, int]]:
    """Yield the marker, and the start and end of the payload, of each segment up to the scan."""
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] not in (_SCAN, _END[1]):
        if data[at + 1] == 0xFF:  # padding
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], at + 4, end
        at = end
