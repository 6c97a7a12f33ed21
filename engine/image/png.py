"""PNG chunks: what OpenCV leaves out of the files it writes, and Pillow of those it reads."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

# How colors are meant; part of the image's look.
COLOR: Final = frozenset({b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI"})
TEXT: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})

_XMP_KEY: Final = b"XML:com.adobe.xmp\x00"
# ImageMagick's way of carrying EXIF, XMP and IPTC; they would contradict the patched blocks.
_RAW_PROFILE: Final = b"Raw profile type "
_AFTER_HEADER: Final = len(SIGNATURE) + 8 + 13 + 4
_INCH: Final = 0.0254

Chunk = tuple[bytes, bytes]


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield type and payload of each whole chunk of a PNG file."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def kept_chunks(data: bytes) -> tuple[Chunk, ...]:
    """Return the chunks on color and text that survive restoration unchanged."""
    return tuple(
        (kind, payload)
        for kind, payload in chunks(data)
        if kind in COLOR or (kind in TEXT and not payload.startswith((_XMP_KEY, _RAW_PROFILE)))
    )


def icc_chunk(profile: bytes) -> Chunk:
    """Pack a color profile."""
    return b"iCCP", b"icc\x00\x00" + zlib.compress(profile)


def exif_chunk(exif: bytes) -> Chunk:
    """Pack an EXIF block without prefix."""
    return b"eXIf", exif


def xmp_chunk(xmp: bytes) -> Chunk:
    """Pack an XMP packet, uncompressed as its standard wants it."""
    return b"iTXt", _XMP_KEY + b"\x00\x00\x00\x00" + xmp


def dpi_chunk(dpi: tuple[float, float]) -> Chunk:
    """Pack a resolution in pixels per inch."""
    horizontal, vertical = (round(value / _INCH) for value in dpi)
    return b"pHYs", struct.pack(">IIB", horizontal, vertical, 1)


def insert(data: bytes, extra: Iterable[Chunk]) -> bytes:
    """Return the file with chunks put right behind its header, where every reader looks."""
    packed = b"".join(_pack(kind, payload) for kind, payload in extra)
    return data[:_AFTER_HEADER] + packed + data[_AFTER_HEADER:]


def _pack(kind: bytes, payload: bytes) -> bytes:
    check = zlib.crc32(payload, zlib.crc32(kind))
    return struct.pack(">I4s", len(payload), kind) + payload + struct.pack(">I", check)
