"""Edits the header of a Matroska file where FFmpeg's muxer is not sufficient.

PyAV cannot pass the pixel aspect ratio of a track to the muxer, nor chapters through the muxer
`tee`.
Both are inserted into the finished file. FFmpeg leaves free bytes at the beginning of a file, so no
frame moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Final

from varfix.engine.errors import EncodeError

# Identifiers of elements (RFC 9559).
_SEGMENT: Final = 0x18538067
_SEEK_HEAD: Final = 0x114D9B74
_SEEK: Final = 0x4DBB
_SEEK_ID: Final = 0x53AB
_SEEK_POSITION: Final = 0x53AC
_VOID: Final = 0xEC
_TRACKS: Final = 0x1654AE6B
_TRACK_ENTRY: Final = 0xAE
_VIDEO: Final = 0xE0
_WIDTH: Final = 0xB0
_HEIGHT: Final = 0xBA
_DISPLAY_WIDTH: Final = 0x54B0
_DISPLAY_HEIGHT: Final = 0x54BA
_DISPLAY_UNIT: Final = 0x54B2
_CHAPTERS: Final = 0x1043A770
_CRC: Final = 0xBF
_CLUSTER: Final = 0x1F43B675
_DISPLAY: Final = frozenset({_DISPLAY_WIDTH, _DISPLAY_HEIGHT, _DISPLAY_UNIT})
_ASPECT_UNIT: Final = 3  # width and height are a ratio, not pixels
_LARGEST_SIZE: Final = 8  # bytes of a size field


@dataclass(frozen=True)
class Element:
    """An element.

    Attributes:
        kind: Identifier.
        payload: Content.
    """

    kind: int
    payload: bytes

    def to_bytes(self) -> bytes:
        """Return the element as it is stored."""
        return _id_bytes(self.kind) + _size_bytes(len(self.payload)) + self.payload

    @property
    def number(self) -> int:
        """The content as an unsigned number."""
        return int.from_bytes(self.payload, "big")


def set_aspect(path: Path, track: int, aspect: Fraction) -> None:
    """Set the pixel aspect ratio of a track.

    Args:
        path: A file written by FFmpeg.
        track: Number of the track, from 0.
        aspect: Width of a pixel divided by its height.

    Raises:
        EncodeError: There is no space for it in the header.
    """

    def change(tracks: Element) -> Element:
        entries = list(_elements(tracks.payload))
        numbers = [at for at, element in enumerate(entries) if element.kind == _TRACK_ENTRY]
        entry = entries[numbers[track]]
        parts = [
            _video(part, aspect) if part.kind == _VIDEO else part
            for part in _elements(entry.payload)
        ]
        entries[numbers[track]] = Element(_TRACK_ENTRY, _joined(parts))
        return Element(_TRACKS, _joined(element for element in entries if element.kind != _CRC))

    with path.open("r+b") as file:
        _Header(file).replace_tracks(change)


def chapters_of(data: bytes) -> bytes:
    """Return the chapters in the bytes of a file; empty if there are none."""
    begin = _segment_begin(data)
    for element in _elements(data[begin:]):
        if element.kind == _CHAPTERS:
            return element.to_bytes()
    return b""


def append_chapters(path: Path, chapters: bytes) -> None:
    """Put chapters at the end of a file.

    Args:
        path: A file written by FFmpeg.
        chapters: Result of `chapters_of`.

    Raises:
        EncodeError: There is no space for their place in the header.
    """
    with path.open("r+b") as file:
        _Header(file).append(_CHAPTERS, chapters)


class _Header:
    """The elements of a file up to its tracks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        head = file.read(4096)
        self._begin = _segment_begin(head)
        self._end = self._end_of_tracks()
        file.seek(self._begin)
        self._elements = list(_elements(file.read(self._end - self._begin)))

    def replace_tracks(self, change: Callable[[Element], Element]) -> None:
        """Replace the tracks by the result of a function."""
        tracks = self._elements[-1]
        if tracks.kind != _TRACKS:
            raise EncodeError("the header has no tracks")
        self._write([*self._elements[:-1], change(tracks)], {})

    def append(self, kind: int, data: bytes) -> None:
        """Write an element at the end of the file, and its place into the header."""
        at = self._file.seek(0, 2)
        self._file.write(data)
        self._write(self._elements, {kind: at - self._begin})
        self._file.seek(self._begin - _LARGEST_SIZE)
        size = at + len(data) - self._begin
        self._file.write(_size_bytes(size, _LARGEST_SIZE))

    def _write(self, elements: list[Element], places: dict[int, int]) -> None:
        """Write the elements; free bytes take up the difference in size."""
        rest = b"".join(
            element.to_bytes()
            for element in elements
            if element.kind not in (_SEEK_HEAD, _VOID, _CRC)
        )
        space = self._end - self._begin - len(rest)
        known = self._places(space, elements) | places
        head = Element(
            _SEEK_HEAD, _joined(_seek(kind, place) for kind, place in known.items())
        ).to_bytes()
        free = space - len(head)
        if free < 0 or free == 1:
            raise EncodeError("no space in the header of the file")
        self._file.seek(self._begin)
        self._file.write(head + _void(free) + rest)

    def _places(self, space: int, elements: list[Element]) -> dict[int, int]:
        """Return the offsets of all elements; those before the frames follow the free space."""
        places = {}
        for seek in _elements(self._elements[0].payload):
            if seek.kind == _SEEK:
                parts = {part.kind: part.number for part in _elements(seek.payload)}
                places[parts[_SEEK_ID]] = parts[_SEEK_POSITION]
        at = space
        for element in elements:
            if element.kind not in (_SEEK_HEAD, _VOID, _CRC):
                places[element.kind] = at
                at += len(element.to_bytes())
        return places

    def _end_of_tracks(self) -> int:
        at = self._begin
        while True:
            self._file.seek(at)
            head = self._file.read(12)
            if len(head) < 12:
                raise EncodeError("the header has no tracks")
            kind, behind = _read_id(head, 0)
            size, behind = _read_size(head, behind)
            at += behind + size
            if kind == _TRACKS:
                return at
            if kind == _CLUSTER:
                raise EncodeError("the header has no tracks")


def _video(video: Element, aspect: Fraction) -> Element:
    """Return the description of frames with a pixel aspect ratio."""
    parts = [part for part in _elements(video.payload) if part.kind not in _DISPLAY]
    sides = {part.kind: part.number for part in parts}
    width, height = sides[_WIDTH] * aspect, sides[_HEIGHT]
    if width.denominator == 1:
        display = [(_DISPLAY_WIDTH, int(width)), (_DISPLAY_HEIGHT, height)]
    else:
        ratio = width / height
        display = [
            (_DISPLAY_WIDTH, ratio.numerator),
            (_DISPLAY_HEIGHT, ratio.denominator),
            (_DISPLAY_UNIT, _ASPECT_UNIT),
        ]
    return Element(_VIDEO, _joined([*parts, *(Element(kind, _number(n)) for kind, n in display)]))


def _seek(kind: int, place: int) -> Element:
    parts = [Element(_SEEK_ID, _id_bytes(kind)), Element(_SEEK_POSITION, _number(place))]
    return Element(_SEEK, _joined(parts))


def _void(size: int) -> bytes:
    """Return an element of unused bytes that is `size` bytes long, 0 or at least 2."""
    if size == 0:
        return b""
    if size < 2 + _LARGEST_SIZE:
        return bytes([_VOID]) + _size_bytes(size - 2) + bytes(size - 2)
    inside = size - 1 - _LARGEST_SIZE
    return bytes([_VOID]) + _size_bytes(inside, _LARGEST_SIZE) + bytes(inside)


def _segment_begin(data: bytes) -> int:
    """Return the place of the segment's content."""
    _, at = _read_id(data, 0)
    size, at = _read_size(data, at)
    at += size
    kind, at = _read_id(data, at)
    if kind != _SEGMENT:
        raise EncodeError("not a Matroska file")
    return _read_size(data, at)[1]


def _elements(data: bytes) -> Iterator[Element]:
    at = 0
    while at < len(data):
        kind, at = _read_id(data, at)
        size, at = _read_size(data, at)
        yield Element(kind, data[at : at + size])
        at += size


def _joined(elements: Iterable[Element]) -> bytes:
    return b"".join(element.to_bytes() for element in elements)


def _read_id(data: bytes, at: int) -> tuple[int, int]:
    """Return an identifier, and the place after it."""
    length = 9 - data[at].bit_length()
    return int.from_bytes(data[at : at + length], "big"), at + length


def _read_size(data: bytes, at: int) -> tuple[int, int]:
    """Return a size, and the place after it."""
    length = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + length], "big")
    return value & ~(1 << 7 * length), at + length


def _id_bytes(kind: int) -> bytes:
    return kind.to_bytes((kind.bit_length() + 7) // 8, "big")


def _size_bytes(size: int, length: int | None = None) -> bytes:
    """Return a size; a field whose bits are all 1 would mean an unknown size."""
    if length is None:
        length = next(n for n in range(1, 9) if size < (1 << 7 * n) - 1)
    return ((1 << 7 * length) | size).to_bytes(length, "big")


def _number(value: int) -> bytes:
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8), "big")
