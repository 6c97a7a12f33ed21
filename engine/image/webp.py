"""Reads WebP chunks: whether the image is lossless, and whether its end is missing."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Final

from PIL import WebPImagePlugin

from varfix.engine.image.zeros import ends_in_zeros

# Number of bytes to remove from the end to test whether a decoder needs them.
_SPARED: Final = 16
_LOSSY, _LOSSLESS = b"VP8 ", b"VP8L"


def is_lossless(data: bytes) -> bool:
    """Return whether the first image of a file is lossless."""
    for kind, _start, _end in _chunks(data):
        if kind in (_LOSSY, _LOSSLESS):
            return kind == _LOSSLESS
    return False


def is_padded(data: bytes) -> bool:
    """Return whether zeros replace the end of the coded image.

    The data of a flat image may end in valid zeros, which its decoder then needs.
    """
    return any(
        kind in (_LOSSY, _LOSSLESS)
        and ends_in_zeros(data, start, end)
        and _decodes(_shortened(data, start, end))
        for kind, start, end in _chunks(data)
    )


def _shortened(data: bytes, start: int, end: int) -> bytes:
    """Return a file of only one chunk, without the last bytes of its payload."""
    payload = data[start : end - _SPARED]
    chunk = data[start - 8 : start - 4] + struct.pack("<I", len(payload)) + payload
    chunk += bytes(len(chunk) % 2)
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def _decodes(data: bytes) -> bool:
    try:
        WebPImagePlugin.WebPImageFile(io.BytesIO(data)).load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the type, and the start and end of the payload, of each chunk."""
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, min(at + 8 + length, len(data))
        at += 8 + length + length % 2
