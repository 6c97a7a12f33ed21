"""Makes small JPEG copies of images for display."""

from __future__ import annotations

from typing import Final

import numpy as np

from varfix.engine.image.decoded_image import Floats, to_integers

_QUALITY: Final = 82
# Pixels between the samples that determine the place of a detail.
_STEP: Final = 8


def preview(pixels: Floats, side: int) -> bytes:
    """Shrink an image until its longer side is at most `side`, and encode it.

    Args:
        pixels: (H, W, 3) float32 in [0, 1], sRGB.
        side: Pixels; a smaller image keeps its size.

    Returns:
        A JPEG file without metadata.

    Raises:
        NonFiniteError: A value is NaN or infinite.
    """
    import cv2

    height, width = pixels.shape[:2]
    scale = side / max(height, width, side)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32)
    samples = to_integers(pixels, depth=8, gray=False)
    _, data = cv2.imencode(".jpg", samples[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return data.tobytes()


def detail(before: Floats, after: Floats, side: int) -> tuple[slice, slice] | None:
    """Choose the region of a large image that a restoration changed most.

    Args:
        before: (H, W, 3) float32 in [0, 1].
        after: The same, restored.
        side: Width of the region in pixels; its height is two thirds of it, or the height of a
            smaller image.

    Returns:
        Rows and columns; None if the image is not larger than the region.
    """
    import cv2

    height, width = before.shape[:2]
    rows, columns = min(height, side * 2 // 3), min(width, side)
    if max(height, width) <= side:
        return None
    change = np.abs(before[::_STEP, ::_STEP] - after[::_STEP, ::_STEP]).sum(axis=2)
    window = (max(1, columns // _STEP), max(1, rows // _STEP))
    mean = cv2.blur(change, window, anchor=(0, 0), borderType=cv2.BORDER_REFLECT)
    inside = mean[: (height - rows) // _STEP + 1, : (width - columns) // _STEP + 1]
    y, x = np.unravel_index(int(np.argmax(inside)), inside.shape)
    top, left = int(y) * _STEP, int(x) * _STEP
    return slice(top, top + rows), slice(left, left + columns)
