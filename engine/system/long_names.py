"""Names that fit into a folder: file systems limit the bytes of a name."""

from __future__ import annotations

import os
import zlib
from typing import Final

_LONGEST: Final = 255  # bytes


def fitted_name(name: str, end: str) -> str:
    """Return a name with something appended, shortened to fit.

    Args:
        name: The beginning, of which as much is kept as fits.
        end: The end, which is kept whole.
    """
    if _size(name) > _LONGEST - _size(end):
        # The checksum distinguishes two long names that are cut to the same beginning.
        end = f"-{zlib.crc32(os.fsencode(name)):08x}{end}"
    while _size(name) > _LONGEST - _size(end):
        name = name[:-1]  # whole characters: some file systems refuse incomplete ones
    return name + end


def _size(name: str) -> int:
    return len(os.fsencode(name))
