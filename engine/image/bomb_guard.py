"""Rejects image files that exhaust a decoder, before any library reads them.

A few hundred bytes can make a decoder allocate terabytes: directories whose entries all point to
the same megabytes, text that inflates without end, a header of one size and data of another. Files
that pass need memory and time in proportion to their pixels.
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

# Most bytes of text, profiles and previews besides the pixels.
MAX_METADATA: Final = 64 * _MIB
# Four channels of 16 bits, twice: pages with smaller copies are common in TIFF.
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
    """Return the largest plausible size of a file with this header, in bytes."""
    return header.width * header.height * _BYTES_PER_PIXEL + MAX_METADATA


def check(kind: str, stream: IO[bytes]) -> None:
    """Reject a file whose structure would exhaust a library; leave the stream at its start.

    Args:
        kind: A key of `varfix.engine.formats.FORMATS`, from the file's first bytes.
        stream: The whole file.

    Raises:
        DecodeUnsupportedError: The file has far more text or profiles than any image.
        EOFError: A TIFF ends before its first directory.
        ValueError: A TIFF directory is malformed.
    """
    try:
        if kind == "png":
            _check_png(stream)
        elif kind == "tiff":
            _check_tiff(stream)
    finally:
        stream.seek(0)


def _check_png(stream: IO[bytes]) -> None:
    """Check the chunks before the pixels, which libraries read into memory completely."""
    at, number = _PNG_SIGNATURE, 0
    while at <= MAX_METADATA and number <= _MOST_CHUNKS:
        stream.seek(at)
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IDAT":
            return
        at += 12 + int.from_bytes(head[:4], "big")
        number += 1
    if stream.seek(0, io.SEEK_END) >= MAX_METADATA or number > _MOST_CHUNKS:
        raise DecodeUnsupportedError(
            f"more than {MAX_METADATA // _MIB} MiB of text or profiles before the pixels",
            hint="save the image again without metadata",
        )


@dataclass(frozen=True)
class _Directory:
    """One TIFF directory.

    Attributes:
        length: Bytes of all values outside of the entries.
        end: Offset of the end of the last value.
        links: Offsets of the directories that it refers to.
        following: Offset of the next directory; 0 if it is the last.
    """

    length: int
    end: int
    links: tuple[int, ...]
    following: int


def _check_tiff(stream: IO[bytes]) -> None:
    size = stream.seek(0, io.SEEK_END)
    walk = _DirectoryWalk(stream, size)
    total, seen = 0, 0
    for directory in walk.directories():
        if seen == 0 and directory.end > size:
            raise EOFError("a value of the first TIFF directory is missing")
        total += directory.length
        seen += 1
        # A few directories may share values; so many indicate an attack.
        if total > 4 * size + _MIB or seen > _MOST_DIRECTORIES:
            raise ValueError("malformed TIFF directory")
    if not seen:
        raise EOFError("the TIFF directory is missing")


class _DirectoryWalk:
    """Visits the directories of a TIFF file, each once."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        stream.seek(0)
        head = stream.read(16)
        self._stream, self._size = stream, size
        self._order = "<" if head[:2] == b"II" else ">"
        self._big = head[2:4] in (b"+\x00", b"\x00+")
        self._start = self._unpack("Q" if self._big else "I", head, 8 if self._big else 4)[0]

    def directories(self) -> Iterator[_Directory]:
        """Yield the first directory, then those it refers to; skip unreadable later ones."""
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
        count = self._unpack(counted, self._stream.read(head))[0]
        if count > 0xFFFF:
            raise ValueError("malformed TIFF directory")
        block = self._stream.read(count * step + struct.calcsize("<" + wide))
        length, end, links = 0, 0, []
        for index in range(count):
            tag, kind, values, place = self._unpack(form, block, index * step)
            taken = self._value_bytes(kind, values)
            length += taken
            end = max(end, place + taken if taken else 0)
            if tag in _LINKS and values == 1:
                links.append(place)
        after = block[count * step :]
        following = self._unpack(wide, after)[0] if len(after) >= struct.calcsize(wide) else 0
        return _Directory(length, end, tuple(links), following)

    def _value_bytes(self, kind: int, values: int) -> int:
        """Return the bytes that an entry points to; 0 if its values are in the entry itself."""
        if kind not in _PLAIN_BYTES and values > _MOST_VALUES:
            raise ValueError("malformed TIFF directory")
        sizes = _TYPE_SIZES_BIG if self._big else _TYPE_SIZES
        length = values * sizes.get(kind, 0)
        return length if length > (8 if self._big else 4) else 0

    def _unpack(self, form: str, data: bytes, at: int = 0) -> tuple[Any, ...]:
        return struct.unpack_from(self._order + form, data, at)


def check_inflated(data: bytes, compression: str, most: int) -> None:
    """Reject compressed bytes that inflate to more than `most`; keep none of them.

    Args:
        data: One strip or tile.
        compression: `zlib` or `lzma`.
        most: Bytes.

    Raises:
        ValueError: The data inflates to more, or is damaged.
        zlib.error: The data is damaged.
    """
    made = 0
    try:
        for piece in _inflated(data, compression):
            made += piece
            if made > most:
                raise ValueError("compressed data inflates to more than the image")
    except lzma.LZMAError as error:
        raise ValueError("compressed data is damaged") from error


def _inflated(data: bytes, compression: str) -> Iterator[int]:
    """Yield the sizes of the inflated pieces, at most 1 MiB each."""
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
