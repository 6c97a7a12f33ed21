"""Track descriptions in MP4 and QuickTime files (ISO/IEC 14496-12).

FFmpeg's muxer keeps the samples of a camera's data tracks (telemetry of drones, motion data of
telephones), but not their descriptions, without which no program can read them. They are read
from the source, and put into the result.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from varfix.engine.errors import EncodeError

# Boxes that contain boxes, on the way to the descriptions.
_PARENTS: Final = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})
_HANDLER: Final = b"hdlr"
_ENTRIES: Final = b"stsd"
# Boxes of `minf` besides the media header.
_NOT_HEADERS: Final = frozenset({b"dinf", b"stbl", b"hdlr"})
_MOVIE: Final = b"moov"


@dataclass(frozen=True)
class Box:
    """A box.

    Attributes:
        kind: Four-character code.
        payload: Its content; empty for a box that contains boxes.
        children: Boxes inside.
    """

    kind: bytes
    payload: bytes = b""
    children: tuple[Box, ...] = ()

    def child(self, *kinds: bytes) -> Box | None:
        """Return the first box at the end of a path of kinds; None if there is none."""
        box: Box | None = self
        for kind in kinds:
            box = next(
                (child for child in (box.children if box else ()) if child.kind == kind), None
            )
        return box

    def to_bytes(self) -> bytes:
        """Return the box as it is stored."""
        inside = b"".join(child.to_bytes() for child in self.children) or self.payload
        return struct.pack(">I4s", 8 + len(inside), self.kind) + inside


@dataclass(frozen=True)
class TrackDescription:
    """Boxes that describe the samples of a track.

    Attributes:
        handler: Handler box (`hdlr`).
        header: Media header (`nmhd`, `gmhd`, …); None if the track has none.
        entries: Sample descriptions (`stsd`).
    """

    handler: Box
    header: Box | None
    entries: Box

    @property
    def is_single(self) -> bool:
        """Whether all samples have one description."""
        return self.entries.payload[4:8] == b"\0\0\0\1"


def track_descriptions(path: Path) -> list[TrackDescription | None]:
    """Return the description of each track in order; None for an incomplete one.

    Args:
        path: An MP4 or QuickTime file.
    """
    with path.open("rb") as file:
        found = _find_movie(file)
        if found is None:
            return []
        start, end = found
        file.seek(start)
        movie = _parse(file.read(end - start))[0]
    return [_description(box) for box in movie.children if box.kind == b"trak"]


def put_descriptions(path: Path, descriptions: Mapping[int, TrackDescription]) -> None:
    """Replace the descriptions of tracks in a file.

    Args:
        path: A file whose last box is the movie box: its size may then change, because no place of
            a sample in the file does.
        descriptions: New descriptions by the number of the track, from 0.

    Raises:
        EncodeError: The file has no movie box at its end.
    """
    with path.open("r+b") as file:
        found = _find_movie(file)
        if found is None or found[1] != file.seek(0, 2):
            raise EncodeError("the movie box is not at the end of the file")
        start, end = found
        file.seek(start)
        movie = _parse(file.read(end - start))[0]
        children, number = [], 0
        for box in movie.children:
            if box.kind == b"trak":
                new = descriptions.get(number)
                box = box if new is None else _described(box, new)
                number += 1
            children.append(box)
        file.seek(start)
        file.write(Box(_MOVIE, children=tuple(children)).to_bytes())
        file.truncate()


def _description(track: Box) -> TrackDescription | None:
    handler = track.child(b"mdia", _HANDLER)
    entries = track.child(b"mdia", b"minf", b"stbl", _ENTRIES)
    info = track.child(b"mdia", b"minf")
    if handler is None or entries is None or info is None:
        return None
    headers = (box for box in info.children if box.kind not in _NOT_HEADERS)
    return TrackDescription(handler, next(headers, None), entries)


def _described(box: Box, new: TrackDescription) -> Box:
    """Return a box with the boxes of a description in the places of its own."""
    if box.kind == _HANDLER:
        return new.handler
    if box.kind == _ENTRIES:
        return new.entries
    if not box.children:
        return box
    children = [_described(child, new) for child in box.children]
    if box.kind == b"minf" and new.header is not None:
        children = [child for child in children if child.kind in _NOT_HEADERS]
        children.insert(0, new.header)
    return Box(box.kind, children=tuple(children))


def _find_movie(file: BinaryIO) -> tuple[int, int] | None:
    """Return begin and end of the movie box; None if there is none."""
    size = file.seek(0, 2)
    at = 0
    while at + 8 <= size:
        file.seek(at)
        head = file.read(16)
        length, kind = struct.unpack_from(">I4s", head)
        if length == 1 and len(head) == 16:
            (length,) = struct.unpack_from(">Q", head, 8)
        end = size if length == 0 else at + length
        if kind == _MOVIE:
            return at, end
        if end < at + 8:
            return None
        at = end
    return None


def _parse(data: bytes) -> tuple[Box, ...]:
    """Return the boxes in a range of bytes."""
    return tuple(
        Box(kind, children=_parse(payload)) if kind in _PARENTS else Box(kind, payload)
        for kind, payload in _split(data)
    )


def _split(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield kind and content of the boxes in a range of bytes."""
    at = 0
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if length == 1 and at + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        end = len(data) if length == 0 else at + length
        if end < at + head:
            return
        yield kind, data[at + head : end]
        at = end
