"""Restores the image as a whole, for models whose input is one tile (guidance `tile`).

Such a model restores each tile independently, so neighbors may differ in tone: a large image gets
patches. Therefore the image is also restored once at the model's input size, and everything coarser
than a tile is taken from that result; tiles give everything else (engine/README.md).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from varfix.engine.restoration.prior_input import thumbnail
from varfix.engine.restoration.prior_maps import sampling_matrix
from varfix.engine.restoration.restorer import Restorer

Floats = npt.NDArray[np.float32]

COARSE = 8
"""Width of a tile in the thumbnail, in standard deviations of the blur that separates the tone.

Patches twice as wide as a tile are reduced by 93 %; detail an eighth as wide is not changed.
"""

_BAND = 256  # rows at a time


def restore_thumbnail(restorer: Restorer, pixels: Floats) -> Floats:
    """Return (H, W, 3) shrunk to one tile and restored: (T, T, 3)."""
    restored: Floats = restorer.restore(thumbnail(pixels, restorer.tile)[None], None).pixels[0]
    return restored


def restore_resized(restorer: Restorer, pixels: Floats) -> Floats:
    """Restore an image as the reference programs do: resized to one tile, and resized back.

    Args:
        restorer: The model.
        pixels: (H, W, 3) float32 in [0, 1].

    Returns:
        (H, W, 3) float32 in [0, 1]; detail finer than the tile's pixels is lost.
    """
    import cv2

    height, width = pixels.shape[:2]
    side = restorer.tile
    # Published figures are comparable only with the same resampling.
    shrink = _lanczos if restorer.card.squash == "lanczos" else _bilinear
    restored: Floats = restorer.restore(shrink(pixels, side)[None], None).pixels[0]
    if (height, width) == (side, side):
        return restored
    resized = cv2.resize(restored, (width, height), interpolation=cv2.INTER_CUBIC)
    clipped: Floats = np.clip(np.asarray(resized, np.float32), 0.0, 1.0)
    return clipped


def _bilinear(pixels: Floats, side: int) -> Floats:
    """Shrink (H, W, 3) to (side, side, 3), without averaging."""
    import cv2

    return np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_LINEAR), np.float32)


def _lanczos(pixels: Floats, side: int) -> Floats:
    """Shrink (H, W, 3) in [0, 1] to (side, side, 3) as Pillow shrinks 8-bit images."""
    from PIL import Image

    eight_bits = Image.fromarray((pixels * 255.0).round().clip(0.0, 255.0).astype(np.uint8))
    shrunk = eight_bits.resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(shrunk, np.float32) / np.float32(255.0)


def transfer_tone(image: Floats, whole: Floats) -> Floats:
    """Give an image the tone of a small restored one; overwrite `image`.

    Args:
        image: (H, W, 3) float32 in [0, 1], blended from tiles of side T, H or W above T.
        whole: (T, T, 3), the same image restored as one tile.

    Returns:
        `image`, unchanged where both agree.
    """
    import cv2

    height, width = image.shape[:2]
    side = len(whole)
    missing = whole - thumbnail(image, side)
    # A tile covers side / height of the image, and so of the thumbnail; at most all of it.
    sigmas = [side * min(1.0, side / length) / COARSE for length in (height, width)]
    tone = cv2.GaussianBlur(
        missing, (0, 0), sigmaX=sigmas[1], sigmaY=sigmas[0], borderType=cv2.BORDER_REFLECT
    )
    rows = tone.reshape(side, -1)
    for top in range(0, height, _BAND):
        count = min(_BAND, height - top)
        band = (sampling_matrix(top, count, 1, height, side) @ rows).reshape(count, side, 3)
        image[top : top + count] += cv2.resize(band, (width, count))
    return np.clip(image, 0.0, 1.0, out=image)
