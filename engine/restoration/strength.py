"""Blends a restored image with its source, with one strength for brightness and one for color."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.settings.types import Strength

Floats = npt.NDArray[np.float32]

LUMA: Final = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the luma of sRGB-encoded pixels (ITU-R BT.601)."""


def blend(source: Floats, restored: Floats, strength: Strength) -> Floats:
    """Return the source with a share of its restoration; overwrite `restored`.

    Args:
        source: (H, W, 3) float32 in [0, 1].
        restored: The same image restored, in [0, 1].
        strength: Shares of the change of luma, and of the change of color.

    Returns:
        (H, W, 3) in [0, 1]; at strength 0 the source's values, at 1 the restored ones.
    """
    if strength.luma == strength.chroma == 1.0:
        return restored
    restored -= source
    scale(restored, strength)
    restored += source
    # Two strengths may lead outside the range that both images are in.
    return restored if strength.is_uniform else np.clip(restored, 0.0, 1.0, out=restored)


def scale(change: Floats, strength: Strength) -> Floats:
    """Multiply a change (H, W, 3) of an image by the strength, in place, and return it."""
    if strength.is_uniform:
        change *= np.float32(strength.luma)
        return change
    # A change of luma alone is equal in red, green and blue.
    luma = change @ LUMA
    luma *= np.float32(strength.luma - strength.chroma)
    change *= np.float32(strength.chroma)
    change += luma[..., None]
    return change
