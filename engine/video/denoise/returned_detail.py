"""Returns detail that a model took for noise, where neighboring frames have shown that it is none.

A model that sees one frame smooths texture that is fainter than the noise. The average over time
shows it. What the average has and the restored frame lacks is noise of a known variance, and else
detail; it is returned in that proportion (a Wiener filter).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.video.denoise.temporal_average import PATCH, KnownNoise

Floats = npt.NDArray[np.float32]

_MARGIN: Final = 1.1  # of the noise, against its own variation
_NEIGHBORS: Final = (1.0, 2.0)  # so many must agree before detail is returned, for all of it
_LIMITS: Final = (2.0, 4.0)
"""Detail of more than so many variances of the noise was not hidden by it: the model meant to
remove it. From the first number on less is returned, from the second on nothing."""


def return_detail(restored: Floats, averaged: Floats, noise: KnownNoise) -> Floats:
    """Return a restored frame with the detail of its average over time.

    Args:
        restored: (H, W, 3) in [0, 1], overwritten.
        averaged: (H, W, 3), what was restored.
        noise: What is known of the noise.

    Returns:
        `restored`, (H, W, 3) in [0, 1].
    """
    import cv2

    height, width = noise.variance.shape
    lost = averaged - restored
    power = cv2.resize(cv2.multiply(lost, lost), (width, height), interpolation=cv2.INTER_AREA)
    power = np.asarray(power, np.float32).reshape(height, width, 3).mean(-1)
    power = cv2.blur(power, (PATCH, PATCH), borderType=cv2.BORDER_REFLECT)
    gain = _gain(np.asarray(power, np.float32).reshape(height, width), noise)
    size = restored.shape[1], restored.shape[0]
    enlarged = cv2.resize(cv2.merge([gain] * 3), size, interpolation=cv2.INTER_LINEAR)
    lost *= np.asarray(enlarged, np.float32).reshape(restored.shape)
    restored += lost
    return np.clip(restored, 0.0, 1.0, out=restored)


def _gain(power: Floats, noise: KnownNoise) -> Floats:
    """Return how much of a difference of this power (h, w) is returned, in [0, 1]."""
    detail = np.maximum(power - np.float32(_MARGIN) * noise.share * noise.variance, 0.0)
    gain = detail / np.maximum(power, np.float32(1e-12))
    low, high = _NEIGHBORS
    gain *= np.clip((noise.neighbors - low) / (high - low), 0.0, 1.0)
    low, high = _LIMITS
    excess = detail / np.maximum(noise.variance, np.float32(1e-12))
    gain *= np.clip((high - excess) / (high - low), 0.0, 1.0)
    return gain.astype(np.float32)
