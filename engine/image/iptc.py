"""IPTC records (captions, keywords, bylines) in the blocks that Photoshop invented for them."""

from __future__ import annotations

import struct
from typing import Final

_SIGNATURE: Final = b"8BIM"
_RECORD: Final = 0x0404


def record_of(resources: bytes) -> bytes | None:
    """Return the IPTC record from a series of Photoshop image resources, None without one."""
    at = 0
    while at + 12 <= len(resources) and resources[at : at + 4] == _SIGNATURE:
        kind = struct.unpack_from(">H", resources, at + 4)[0]
        name = 1 + resources[at + 6]
        start = at + 6 + name + name % 2
        if start + 4 > len(resources):
            return None
        size = struct.unpack_from(">I", resources, start)[0]
        start += 4
        if kind == _RECORD:
            record = resources[start : start + size]
            return record if len(record) == size and size else None
        at = start + size + size % 2
    return None


def resources(record: bytes) -> bytes:
    """Pack an IPTC record as the only one of a series of Photoshop image resources."""
    head = _SIGNATURE + struct.pack(">HHI", _RECORD, 0, len(record))
    return head + record + bytes(len(record) % 2)
