"""Photoshop's image resources: captions and keywords (IPTC), paths, and what goes stale.

Photoshop invented these blocks; JPEG and TIFF files of many programs carry them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_SIGNATURE: Final = b"8BIM"
_RECORD: Final = 0x0404
# Previews, resolution, and copies of metadata that stands elsewhere in the file.
_STALE: Final = frozenset({0x0409, 0x040C, 0x03ED, 0x040F, 0x0422, 0x0423, 0x0424})
# What is meant in coordinates: guides, slices, paths and the name of the clipping path.
_PATHS: Final = range(2000, 3000)
_PLACED: Final = frozenset({0x0408, 0x041A, *_PATHS})


def blocks(resources: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield kind, payload and whole bytes of each resource of a series, as far as it is sound."""
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
    """Return the IPTC record from a series of image resources, None without one."""
    for kind, payload, _whole in blocks(resources):
        if kind == _RECORD:
            return payload or None
    return None


def resources(record: bytes) -> bytes:
    """Pack an IPTC record as the only one of a series of image resources."""
    head = _SIGNATURE + struct.pack(">HHI", _RECORD, 0, len(record))
    return head + record + bytes(len(record) % 2)


def kept(series: bytes | None, record: bytes | None, *, turned: bool) -> tuple[bytes | None, bool]:
    """Return the resources that stay true, and whether some were lost by turning the image.

    Args:
        series: Image resources, if any.
        record: An IPTC record that stands beside them and overrides theirs, if any.
        turned: The image is not stored as it was: coordinates are false.
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
    """Tell whether there are paths among image resources."""
    return any(kind in _PATHS for kind, _payload, _whole in blocks(series))
