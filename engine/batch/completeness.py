"""Checks whether an image or video is complete or was cut short by an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from varfix.engine.errors import DecodeError
from varfix.engine.formats import is_video
from varfix.engine.image.reader import decode_image
from varfix.engine.video.sources.truncation import expected_end

_MAX_PIXELS: Final = 1 << 31  # varfix wrote the file, so its size is not an attack


def is_complete(path: Path) -> bool:
    """Return whether a file can be read to its end: an image is decoded, a video's boxes walked."""
    try:
        if is_video(path):
            with path.open("rb") as file:
                return (expected_end(file) or 0) <= path.stat().st_size
        decode_image(path.read_bytes(), max_pixels=_MAX_PIXELS)
    except (DecodeError, OSError):
        return False
    return True
