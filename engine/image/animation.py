"""Animations among image files."""

from __future__ import annotations

from pathlib import Path


def is_animated(path: Path) -> bool:
    """Return whether a GIF or WebP file has several frames; false for what cannot be read."""
    from PIL import Image

    try:
        with Image.open(path, formats=("GIF", "WEBP")) as image:
            return bool(getattr(image, "is_animated", False))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
