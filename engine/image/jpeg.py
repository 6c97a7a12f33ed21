"""JPEG segments: the ways of coding that no decoder here knows, and what Pillow does not write."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from varfix.engine.image import iptc

_SCAN: Final = 0xDA
_FIRST_APP, _LAST_APP = 0xE0, 0xEF
_RESOURCES: Final = 0xED
_PHOTOSHOP: Final = b"Photoshop 3.0\x00"
_MAX_PAYLOAD: Final = 65533

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


def oddity(data: bytes) -> str | None:
    """Name what is unusual in how a JPEG is coded: its depth or its process; None if nothing is."""
    for marker, start, end in _segments(data):
        if marker in _FRAMES and end > start:
            if data[start] != 8:
                return f"{data[start]}-bit"
            name = _FRAMES[marker]
            return None if name in _USUAL else name
    return None


def scan_start(data: bytes) -> int:
    """Return the offset of the first scan, behind thumbnails with end markers of their own."""
    at = 2
    for _marker, _start, end in _segments(data):
        at = end
    return at


def iptc_of(data: bytes) -> bytes | None:
    """Return the IPTC record of a JPEG, None without one."""
    parts = [
        data[start:end].removeprefix(_PHOTOSHOP)
        for marker, start, end in _segments(data)
        if marker == _RESOURCES and data.startswith(_PHOTOSHOP, start)
    ]
    return iptc.record_of(b"".join(parts))


def with_iptc(data: bytes, record: bytes) -> bytes:
    """Return the file with an IPTC record, behind the other application segments.

    Raises:
        ValueError: The record is larger than a segment.
    """
    payload = _PHOTOSHOP + iptc.resources(record)
    if len(payload) > _MAX_PAYLOAD:
        raise ValueError("the IPTC record is too large for JPEG")
    at = 2
    for marker, _start, end in _segments(data):
        if not _FIRST_APP <= marker <= _LAST_APP:
            break
        at = end
    segment = struct.pack(">BBH", 0xFF, _RESOURCES, len(payload) + 2) + payload
    return data[:at] + segment + data[at:]


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of the payload of each segment before the first scan."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != _SCAN:
        if data[at + 1] == 0xFF:  # padding
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], at + 4, end
        at = end
