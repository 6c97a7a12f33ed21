"""Zeros in the place of data: what an interrupted copy and a bad sector leave behind."""

from __future__ import annotations

from typing import Final

# Arithmetic and prefix codes end in so many zero bits by chance less often than once in 2^256.
_MOST: Final = 32


def ends_in_zeros(data: bytes, start: int, end: int) -> bool:
    """Tell whether compressed data ends in more zeros than a coder writes.

    Args:
        data: The whole file.
        start: Where the compressed data begins.
        end: Where it ends.
    """
    tail = data[max(start, end - _MOST) : end]
    return len(tail) == _MOST and not any(tail)
