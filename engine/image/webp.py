"""WebP chunks: how the image is coded, and whether its end is there."""

from __future__ import annotations

from collections.abc import Iterator

from varfix.engine.image.zeros import ends_in_zeros

_LOSSY, _LOSSLESS = b"VP8 ", b"VP8L"


def is_lossless(data: bytes) -> bool:
    """Tell whether the first coded image of a file is stored without loss."""
    for kind, _start, _end in _chunks(data):
        if kind in (_LOSSY, _LOSSLESS):
            return kind == _LOSSLESS
    return False


def is_padded(data: bytes) -> bool:
    """Tell whether the end of the coded image is missing and zeros stand in its place."""
    return any(
        kind in (_LOSSY, _LOSSLESS) and ends_in_zeros(data, start, end)
        for kind, start, end in _chunks(data)
    )


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, and start and end of the payload, of each chunk; profiles may come first."""
    at = 12
    while at + 8 <= len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], at + 8, min(at + 8 + length, len(data))
        at += 8 + length + length % 2
