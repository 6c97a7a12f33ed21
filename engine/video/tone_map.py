"""Tone mapping of HDR signals (PQ and HLG) for models that expect standard range.

The map is one increasing curve for every channel, so that it can be inverted: a model sees a
tone-mapped copy, and its change is applied to the signal itself, in its own space. Diffuse white of
203 cd/m2 (ITU-R BT.2408) is at 0.82, middle gray at 0.46; highlights up to the peak of the signal
are compressed into the rest by the operator of Reinhard et al., "Photographic Tone Reproduction for
Digital Images", 2002, equation 4.
"""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Transfer characteristics in the numbers of ISO/IEC 23091-2.
PQ: Final = 16
HLG: Final = 18
_PEAKS: Final = {PQ: 10_000.0, HLG: 1000.0}  # cd/m2
_EXPOSURE: Final = 120.0  # cd/m2 that become 1 before compression
_HLG_GAMMA: Final = 1.2  # of a display of 1000 cd/m2, ITU-R BT.2100
_LEVELS: Final = (1 << 16) - 1


class ToneMap:
    """Converts between signal values and values for a model, both in [0, 1]."""

    def __init__(self, transfer: int) -> None:
        """Compute the curve.

        Args:
            transfer: `PQ` or `HLG`.
        """
        signal = np.linspace(0, 1, _LEVELS + 1)
        curve = _curve(signal, transfer)
        self._to_model = curve.astype(np.float32)
        self._to_signal = np.interp(signal, curve, signal).astype(np.float32)

    def to_model(self, signal: Floats) -> Floats:
        """Return what a model sees of signal values."""
        return self._to_model[_levels(signal)]

    def to_signal(self, values: Floats) -> Floats:
        """Return the signal values of which a model would see these values."""
        return self._to_signal[_levels(values)]


@functools.cache
def tone_map_for(transfer: int) -> ToneMap | None:
    """Return the map for a transfer characteristic; None for standard range."""
    return ToneMap(transfer) if transfer in _PEAKS else None


def _levels(values: Floats) -> npt.NDArray[np.uint16]:
    levels: npt.NDArray[np.uint16] = np.rint(np.clip(values, 0, 1) * _LEVELS).astype(np.uint16)
    return levels


def _curve(signal: npt.NDArray[np.float64], transfer: int) -> npt.NDArray[np.float64]:
    light = (_pq_light(signal) if transfer == PQ else _hlg_light(signal)) / _EXPOSURE
    white = _PEAKS[transfer] / _EXPOSURE
    mapped = light * (1 + light / white**2) / (1 + light)
    return np.where(mapped <= 0.0031308, 12.92 * mapped, 1.055 * mapped ** (1 / 2.4) - 0.055)


def _pq_light(signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return light in cd/m2, by SMPTE ST 2084."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = signal ** (1 / m2)
    return 10_000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def _hlg_light(signal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return light in cd/m2 on a display of 1000 cd/m2, by ITU-R BT.2100."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return 1000 * scene**_HLG_GAMMA
