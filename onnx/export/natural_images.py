"""Synthetic images with the statistics of photographs, for comparing networks.

Networks trained on photographs behave differently on white noise.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def natural_pixels(side: int, seed: int = 0) -> Floats:
    """Return an image (1, 3, side, side) in [0, 1] with the 1/f spectrum of natural images."""
    rng = np.random.default_rng(seed)
    rows, columns = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    fading = 1.0 / np.maximum(np.sqrt(rows**2 + columns**2), 1.0 / side)
    waves = np.fft.rfft2(rng.standard_normal((1, 3, side, side))) * fading
    values = np.fft.irfft2(waves, (side, side))
    spread: Floats = (values / (4.0 * values.std()) + 0.5).astype(np.float32)
    return spread.clip(0.0, 1.0)


def noisy_pixels(side: int, seed: int = 0, sigma: float = 15.0) -> Floats:
    """Return `natural_pixels` with white noise of `sigma`, in units of 1/255."""
    noise = np.random.default_rng(seed + 1000).standard_normal((1, 3, side, side))
    noisy: Floats = natural_pixels(side, seed) + (noise * (sigma / 255.0)).astype(np.float32)
    return noisy.clip(0.0, 1.0)
