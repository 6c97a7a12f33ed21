"""Reads, checks and writes PNG chunks: OpenCV writes no metadata, and decoders check too little."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"

# Chunks that decide how the samples are displayed.
COLOR: Final = frozenset({b"cHRM", b"gAMA", b"sRGB", b"cICP", b"mDCV", b"cLLI"})
TEXT: Final = frozenset({b"tEXt", b"zTXt", b"iTXt"})

# Chunks of fixed length, in bytes; Pillow reports a shorter chunk as the end of the file.
_LENGTHS: Final = {
    **{b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"pHYs": 9, b"tIME": 7},
    **{b"mDCV": 24, b"cLLI": 8},
}

_XMP_KEY: Final = b"XML:com.adobe.xmp\x00"
_COMMENT_KEY: Final = b"Comment\x00"
# ImageMagick stores EXIF, XMP and IPTC in these texts; they would contradict the patched blocks.
_RAW_PROFILE: Final = b"Raw profile type "
_AFTER_HEADER: Final = len(SIGNATURE) + 8 + 13 + 4
_APPLE: Final = b"CgBI"

Chunk = tuple[bytes, bytes]


def is_apple(head: bytes) -> bool:
    """Return whether a PNG is in the private format that Xcode writes into applications."""
    return head[12:16] == _APPLE


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the type and payload of each complete chunk of a PNG."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            return
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def check_chunks(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Check every chunk of a PNG against its checksum.

    Returns:
        The file without the damaged chunks that decoding does not need, and a warning for each.

    Raises:
        EOFError: The file ends before its end chunk.
        ValueError: A chunk that decoding needs is damaged.
    """
    view = memoryview(data)
    at, start = len(SIGNATURE), 0
    parts, warnings = [], []
    while True:
        if at + 12 > len(data):
            raise EOFError("the PNG has no end chunk")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if not kind.isalpha() or end > len(data):
            raise EOFError("a chunk of the PNG is cut short")
        if fault := _fault_of(view[at + 4 : end]):
            warnings.append(_drop_warning(kind, fault))
            parts.append(data[start:at])
            start = end
        at = end
        if kind == b"IEND":
            break
    return (b"".join((*parts, data[start:])) if parts else data), tuple(warnings)


def check_head(stream: IO[bytes]) -> bytes:
    """Read a PNG up to its pixels; drop damaged chunks that decoding does not need.

    Raises:
        ValueError: A chunk that decoding needs is damaged.
    """
    parts = [stream.read(len(SIGNATURE))]
    while True:
        head = stream.read(8)
        if len(head) < 8 or head[4:] == b"IDAT":
            return b"".join((*parts, head))
        rest = stream.read(int.from_bytes(head[:4], "big") + 4)
        fault = _fault_of(memoryview(head[4:] + rest))
        if not fault:
            parts += [head, rest]
        elif head[4:].isalpha():
            _drop_warning(head[4:], fault)
        else:
            return b"".join((*parts, head))


def _fault_of(chunk: memoryview) -> str:
    """Return what is wrong with a chunk (type, payload and checksum); empty if it is valid."""
    if zlib.crc32(chunk[:-4]) != int.from_bytes(chunk[-4:], "big"):
        return "wrong checksum"
    length = _LENGTHS.get(bytes(chunk[:4]), len(chunk) - 8)
    return "" if len(chunk) - 8 == length else "wrong length"


def _drop_warning(kind: bytes, fault: str) -> str:
    """Return the warning for a damaged chunk that is dropped.

    Raises:
        ValueError: Decoding needs the chunk, as the capital first letter of its type shows.
    """
    if kind[:1].isupper():
        raise ValueError("a chunk of the PNG is damaged")
    return f"the {kind.decode('ascii')} chunk is damaged ({fault}) and was not kept"


def kept_chunks(data: bytes) -> tuple[Chunk, ...]:
    """Return the chunks about color and text that the result keeps unchanged."""
    return tuple(
        (kind, payload)
        for kind, payload in chunks(data)
        if kind in COLOR or (kind in TEXT and not payload.startswith((_XMP_KEY, _RAW_PROFILE)))
    )


def comment_in(kept: Iterable[Chunk]) -> str | None:
    """Return the comment in text chunks, None without a comment."""
    return texts_in(kept).get("Comment")


def texts_in(kept: Iterable[Chunk]) -> dict[str, str]:
    """Return the texts in chunks by their keywords; skip damaged chunks."""
    found = {}
    for kind, payload in kept:
        key, _end, rest = payload.partition(b"\x00")
        words = _text(kind, rest) if kind in TEXT else None
        if words is not None:
            found[key.decode("latin-1")] = words
    return found


def _text(kind: bytes, rest: bytes) -> str | None:
    """Return the text of a chunk after its keyword; None if it is damaged."""
    try:
        if kind == b"tEXt":
            return rest.decode("latin-1")
        if kind == b"zTXt":
            return _inflated(rest[1:]).decode("latin-1")
        _language, _translated, text = rest[2:].split(b"\x00", 2)
        return (_inflated(text) if rest[0] else text).decode("utf-8")
    except (ValueError, IndexError, zlib.error):
        return None


def _inflated(data: bytes) -> bytes:
    return zlib.decompressobj().decompress(data, 1 << 20)


def comment_chunk(comment: str) -> Chunk:
    """Pack a comment: in Latin-1 if possible, else in UTF-8."""
    try:
        return b"tEXt", _COMMENT_KEY + comment.encode("latin-1")
    except UnicodeEncodeError:
        return b"iTXt", _COMMENT_KEY + bytes(4) + comment.encode("utf-8")


def icc_chunk(profile: bytes) -> Chunk:
    """Pack a color profile."""
    return b"iCCP", b"icc\x00\x00" + zlib.compress(profile)


def exif_chunk(exif: bytes) -> Chunk:
    """Pack an EXIF block without prefix."""
    return b"eXIf", exif


def xmp_chunk(xmp: bytes) -> Chunk:
    """Pack an XMP packet, uncompressed as its standard requires."""
    return b"iTXt", _XMP_KEY + b"\x00\x00\x00\x00" + xmp


def resolution_chunk(across: int, down: int, unit: int) -> Chunk:
    """Pack numbers of pixels per meter (`unit` 1), or a ratio of them (`unit` 0)."""
    return b"pHYs", struct.pack(">IIB", across, down, unit)


def insert(data: bytes, extra: Iterable[Chunk]) -> bytes:
    """Return the file with chunks inserted right after its header, where all readers find them."""
    packed = b"".join(_pack(kind, payload) for kind, payload in extra)
    return data[:_AFTER_HEADER] + packed + data[_AFTER_HEADER:]


def _pack(kind: bytes, payload: bytes) -> bytes:
    check = zlib.crc32(payload, zlib.crc32(kind))
    return struct.pack(">I4s", len(payload), kind) + payload + struct.pack(">I", check)
