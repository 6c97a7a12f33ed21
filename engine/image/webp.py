"""WebP chunks: how the image is coded, and whether its end is there."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Final

from PIL import WebPImagePlugin

from varfix.engine.image.zeros import ends_in_zeros

# Bytes without which a decoder that needs the end of the data fails.
_SPARED: Final = 16
_LOSSY, _LOSSLESS = b"VP8 ", b"VP8L"


def is_lossless(data: bytes) -> bool:
    """Tell whether the first coded image of a file is stored without loss."""
    for kind, _start, _end in _chunks(data):
        if kind in (_LOSSY, _LOSSLESS):
            return kind == _LOSSLESS
    return False


def is_padded(data: bytes) -> bool:
    """Tell whether the end of the coded image is missing and zeros stand in its place.

    A flat image may really end in zeros. Its decoder then needs all of them.
    """
    return any(
        kind in (_LOSSY, _LOSSLESS)
        and ends_in_zeros(data, start, end)
        and _decodes(_shortened(data, start, end))
        for kind, start, end in _chunks(data)
    )


def _shortened(data: bytes, start: int, end: int) -> bytes:
    """Return a file of the chunk alone that lies in a range, without its last bytes."""
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
    """Yield type, and start and end of the payload, of each chunk; profiles may come first."""
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, min(at + 8 + length, len(data))
        at += 8 + length + length % 2
