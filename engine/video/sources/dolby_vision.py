"""The Dolby Vision record of a file: whether its frames can be shown without it.

The base layer of some profiles has colors that only a Dolby Vision decoder can show (profile 5, by
streaming services); that of others is ordinary HDR or standard range (profile 8, by telephones).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

# Names of the record in MP4 and QuickTime files, and types of the same record in Matroska.
_NAMES: Final = (b"dvcC", b"dvvC", b"dvwC")
# Elements of Matroska (RFC 9559): the type of an addition to a track, and its data.
_TYPE_ID: Final = b"\x41\xe7\x84"
_DATA_ID: Final = b"\x41\xed"
_RECORD_BYTES: Final = 5
_HEADER_BYTES: Final = 1 << 20  # Matroska's tracks are near the beginning


def needs_dolby_vision(path: Path) -> bool:
    """Return whether a file declares that its colors can be shown only with Dolby Vision.

    Args:
        path: The file.
    """
    record = _record(path)
    if record is None:
        return False
    compatible = record[4] >> 4  # 0: with nothing; 1: HDR10; 2: standard range; 4: HLG
    return compatible == 0


def _record(path: Path) -> bytes | None:
    """Return the first bytes of the record; None if there is none."""
    from varfix.engine.video.mux.iso_boxes import track_descriptions
    from varfix.engine.video.sources.truncation import container_of

    if not path.is_file():
        return None  # numbered images
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    kind = container_of(head[:12])
    if kind == "mp4":
        tracks = [track for track in track_descriptions(path) if track is not None]
        return next((found for track in tracks if (found := _in_box(track.entries.payload))), None)
    return _in_element(head) if kind == "mkv" else None


def _in_box(entries: bytes) -> bytes | None:
    for name in _NAMES:
        before, found, record = entries.partition(name)
        if found and len(record) >= _RECORD_BYTES and before[-4:-2] == b"\0\0":
            return record
    return None


def _in_element(head: bytes) -> bytes | None:
    for name in _NAMES:
        _, found, rest = head.partition(_TYPE_ID + name)
        _, data, record = rest[:64].partition(_DATA_ID)
        if found and data and len(record) > _RECORD_BYTES:
            return record[1:]  # after its size of 1 byte
    return None
