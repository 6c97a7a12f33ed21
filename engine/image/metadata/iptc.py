"""Reads and writes Photoshop image resources: captions and keywords (IPTC), clipping paths.

Many programs write these blocks into JPEG and TIFF files.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_SIGNATURE: Final = b"8BIM"
_RECORD: Final = 0x0404
# Previews, resolution, and copies of metadata: wrong after restoration.
_STALE: Final = frozenset({0x0409, 0x040C, 0x03ED, 0x040F, 0x0422, 0x0423, 0x0424})
# Resources with coordinates: guides, slices, paths and the name of the clipping path.
_PATHS: Final = range(2000, 3000)
_PLACED: Final = frozenset({0x0408, 0x041A, *_PATHS})


def blocks(resources: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield the type, payload and complete bytes of each resource; stop at the first error."""
    at = 0
    while at + 12 <= len(resources) and resources[at : at + 4] == _SIGNATURE:
        kind = struct.unpack_from(">H", resources, at + 4)[0]
        name = 1 + resources[at + 6]
        start = at + 6 + name + name % 2
        if start + 4 > len(resources):
            return
        size = struct.unpack_from(">I", resources, start)[0]
        start += 4
        payload = resources[start : start + size]
        if len(payload) < size:
            return
        end = start + size + size % 2
        yield kind, payload, resources[at:end].ljust(end - at, b"\x00")
        at = end


def record_of(resources: bytes) -> bytes | None:
    """Return the IPTC record in image resources, None without a record."""
    for kind, payload, _whole in blocks(resources):
        if kind == _RECORD:
            return payload or None
    return None


def resources(record: bytes) -> bytes:
    """Pack an IPTC record into an image resource."""
    head = _SIGNATURE + struct.pack(">HHI", _RECORD, 0, len(record))
    return head + record + bytes(len(record) % 2)


def kept(series: bytes | None, record: bytes | None, *, turned: bool) -> tuple[bytes | None, bool]:
    """Return the resources that are still valid, and whether turning the image lost any.

    Args:
        series: Image resources, if any.
        record: A separate IPTC record, which has precedence over theirs, if any.
        turned: The image was turned, so that coordinates are wrong.
    """
    found = list(blocks(series or b""))
    drop = _STALE | (_PLACED if turned else frozenset())
    parts = [whole for kind, _payload, whole in found if kind not in drop and kind != _RECORD]
    own = record or record_of(series or b"")
    if own:
        parts.insert(0, resources(own))
    lost = turned and any(kind in _PLACED for kind, _payload, _whole in found)
    return b"".join(parts) or None, lost


def has_paths(series: bytes) -> bool:
    """Return whether image resources contain paths."""
    return any(kind in _PATHS for kind, _payload, _whole in blocks(series))
