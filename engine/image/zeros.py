"""Detects data that was replaced by zeros, as by an interrupted copy or a bad sector."""

from __future__ import annotations

from typing import Final

# The probability that valid data ends in this many zero bytes is about 2^-256.
_MOST: Final = 32


def ends_in_zeros(data: bytes, start: int, end: int) -> bool:
    """Return whether compressed data ends in more zeros than an encoder writes.

    Args:
        data: The whole file.
        start: Offset of the compressed data.
        end: Offset of its end.
    """
    tail = data[max(start, end - _MOST) : end]
    return len(tail) == _MOST and not any(tail)
