"""Looks at an image file before any library does, and stops what is made to exhaust it.

A few hundred bytes can ask a decoder for terabytes: directories whose entries all point to the same
megabytes, text that inflates without end, a header of one size and data of another. What is found
here is refused; what passes needs memory and time in proportion to its pixels.
"""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

from varfix.engine.errors import DecodeUnsupportedError
from varfix.engine.formats import Header

_MIB: Final = 1 << 20

# What text, profiles and previews may take beside the pixels.
MOST_METADATA: Final = 64 * _MIB
# Sixteen bits of four channels, kept twice: pages of smaller copies are common in TIFF.
_BYTES_PER_PIXEL: Final = 16

_PNG_SIGNATURE: Final = 8
_MOST_CHUNKS: Final = 100_000

# Bytes per value of each TIFF field type.
_TYPE_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
_TYPE_SIZES_BIG: Final = _TYPE_SIZES | {13: 4, 16: 8, 17: 8, 18: 8}
_PLAIN_BYTES: Final = (1, 2, 6, 7)
_LINKS: Final = (0x014A, 0x8769, 0x8825, 0xA005)  # smaller copies, EXIF, GPS, interoperability
_MOST_VALUES: Final = 1 << 20
_MOST_DIRECTORIES: Final = 1024


def largest_file(header: Header) -> int:
    """Return how many bytes a file of such an image can sensibly have."""
    return header.width * header.height * _BYTES_PER_PIXEL + MOST_METADATA


def check(kind: str, stream: IO[bytes]) -> None:
    """Refuse a file whose structure alone would exhaust a library; leaves the stream at its start.

    Args:
        kind: A key of `formats.FORMATS`, from the file's first bytes.
        stream: The whole file.

    Raises:
        DecodeUnsupportedError: It holds far more text or profiles than any image.
        EOFError: A TIFF ends before its first directory.
        ValueError: A TIFF's directories are absurd.
    """
    try:
        if kind == "png":
            _check_png(stream)
        elif kind == "tiff":
            _check_tiff(stream)
    finally:
        stream.seek(0)


def _check_png(stream: IO[bytes]) -> None:
    """Walk the chunks before the pixels, which libraries read into memory whole."""
    at, number = _PNG_SIGNATURE, 0
    while at <= MOST_METADATA and number <= _MOST_CHUNKS:
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IDAT":
            return
        at += 12 + int.from_bytes(head[:4], "big")
        number += 1
    if stream.seek(0, io.SEEK_END) >= MOST_METADATA or number > _MOST_CHUNKS:
        raise DecodeUnsupportedError(
            f"holds more than {MOST_METADATA // _MIB} MB of text or profiles before its pixels",
            hint="Save it again without metadata.",
        )


@dataclass(frozen=True)
class _Directory:
    """One TIFF directory: the file bytes of all its values, and where it leads."""

    length: int
    end: int
    links: tuple[int, ...]
    following: int


def _check_tiff(stream: IO[bytes]) -> None:
    size = stream.seek(0, io.SEEK_END)
    walk = _Walk(stream, size)
    total, seen = 0, 0
    for directory in walk.directories():
        if seen == 0 and directory.end > size:
            raise EOFError("a value of the first TIFF directory is missing")
        total += directory.length
        seen += 1
        # Values may be shared between directories, but not by so many.
        if total > 4 * size + _MIB or seen > _MOST_DIRECTORIES:
            raise ValueError("the TIFF's directories are absurd")
    if not seen:
        raise EOFError("the TIFF directory is missing")


class _Walk:
    """Goes through the directories of a TIFF file, each once."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        stream.seek(0)
        head = stream.read(16)
        self._stream, self._size = stream, size
        self._order = "<" if head[:2] == b"II" else ">"
        self._big = head[2:4] in (b"+\x00", b"\x00+")
        self._start = self._unpacked("Q" if self._big else "I", head, 8 if self._big else 4)[0]

    def directories(self) -> Iterator[_Directory]:
        """Yield the first directory, then those it leads to; unreadable later ones are left out."""
        waiting, seen = [self._start], set()
        while waiting:
            at = waiting.pop()
            if at in seen or not 0 < at < self._size:
                continue
            seen.add(at)
            try:
                directory = self._read(at)
            except struct.error:
                continue
            yield directory
            waiting += [*directory.links, directory.following]

    def _read(self, at: int) -> _Directory:
        form, wide = ("HHQQ", "Q") if self._big else ("HHII", "I")
        counted = "Q" if self._big else "H"
        step, head = struct.calcsize("<" + form), struct.calcsize("<" + counted)
        self._stream.seek(at)
        count = self._unpacked(counted, self._stream.read(head))[0]
        if count > 0xFFFF:
            raise ValueError("the TIFF's directories are absurd")
        block = self._stream.read(count * step + struct.calcsize("<" + wide))
        length, end, links = 0, 0, []
        for index in range(count):
            tag, kind, values, place = self._unpacked(form, block, index * step)
            taken = self._taken(kind, values)
            length += taken
            end = max(end, place + taken if taken else 0)
            if tag in _LINKS and values == 1:
                links.append(place)
        after = block[count * step :]
        following = self._unpacked(wide, after)[0] if len(after) >= struct.calcsize(wide) else 0
        return _Directory(length, end, tuple(links), following)

    def _taken(self, kind: int, values: int) -> int:
        """Bytes in the file that an entry points to, 0 if its values lie in the entry itself."""
        if kind not in _PLAIN_BYTES and values > _MOST_VALUES:
            raise ValueError("the TIFF's directories are absurd")
        sizes = _TYPE_SIZES_BIG if self._big else _TYPE_SIZES
        length = values * sizes.get(kind, 0)
        return length if length > (8 if self._big else 4) else 0

    def _unpacked(self, form: str, data: bytes, at: int = 0) -> tuple[Any, ...]:
        return struct.unpack_from(self._order + form, data, at)


def check_inflated(data: bytes, compression: str, most: int) -> None:
    """Refuse compressed bytes that would become more than `most`, keeping none of them.

    Args:
        data: One strip or tile.
        compression: `zlib` or `lzma`.
        most: Bytes.

    Raises:
        ValueError: They inflate to more, or are damaged.
        zlib.error: They are damaged.
    """
    made = 0
    try:
        for piece in _inflated(data, compression):
            made += piece
            if made > most:
                raise ValueError("compressed data that inflates without end")
    except lzma.LZMAError as error:
        raise ValueError("compressed data that is damaged") from error


def _inflated(data: bytes, compression: str) -> Iterator[int]:
    """Yield the sizes of the pieces that compressed bytes become, a MiB at most each."""
    if compression == "zlib":
        inflate = zlib.decompressobj()
        while data and not inflate.eof:
            yield len(inflate.decompress(data, _MIB))
            data = inflate.unconsumed_tail
        return
    while data:  # streams may follow each other
        stream = lzma.LZMADecompressor()
        while not stream.eof and (data or not stream.needs_input):
            yield len(stream.decompress(data, _MIB))
            data = b""
        data = stream.unused_data
