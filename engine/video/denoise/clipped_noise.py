"""Corrects means of noise that was clipped at black or white.

Where noise reaches black, its negative half is cut off, and the mean over time is too light; at
white it is too dark. Mean and deviation of what is left tell by how much, for normal noise.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_FARTHEST: Final = 4.0  # standard deviations from the limit beyond which nothing is clipped


def _table() -> tuple[Floats, Floats]:
    """Return means over deviations of clipped noise, ascending, and the errors of the means.

    For normal noise around z standard deviations above the limit. The mean of what is clipped is
    `z Phi(z) + phi(z)`, the mean square `(z^2 + 1) Phi(z) + z phi(z)`. Errors are in units of the
    deviation that is left.
    """
    distances = np.linspace(0.0, _FARTHEST, 81)
    below = np.array([0.5 * math.erfc(-z / math.sqrt(2.0)) for z in distances])
    density = np.exp(-0.5 * distances**2) / math.sqrt(2.0 * math.pi)
    mean = distances * below + density
    deviation = np.sqrt((distances**2 + 1.0) * below + distances * density - mean**2)
    errors = (mean - distances) / deviation
    errors[-1] = 0.0
    return (mean / deviation).astype(np.float32), errors.astype(np.float32)


_RATIOS, _ERRORS = _table()


def clipping_error(mean: Floats, deviation: Floats) -> Floats:
    """Return by how much clipped noise moves a mean over time.

    Args:
        mean: (h, w, 3) in [0, 1], local mean of clipped samples.
        deviation: (h, w), their standard deviation.

    Returns:
        (h, w, 3); above 0 near black, below 0 near white, 0 elsewhere.
    """
    error = np.zeros_like(mean)
    reach = np.float32(_FARTHEST) * deviation[..., None]
    for sign, distance in ((1.0, mean), (-1.0, 1.0 - mean)):
        near = (distance < reach) & (reach > 0.0)
        scale = np.float32(sign) * np.broadcast_to(deviation[..., None], mean.shape)[near]
        error[near] += scale * np.interp(distance[near] / np.abs(scale), _RATIOS, _ERRORS)
    return error
