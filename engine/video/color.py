"""Conversion of Y'CbCr samples to RGB for the model, and of the model's change back to Y'CbCr.

The matrix is that of the file's tag, or the one that players assume without a tag; it is the same
in both directions. The restored RGB is not stored itself, only the *change*::

    stored' = stored + subsampled(matrix(restored - to_rgb(stored)))

So samples that the model does not change are stored bit for bit, at any depth and any chroma
subsampling. Samples below black or above white, which RGB in [0, 1] cannot represent, are kept too.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.errors import NonFiniteError
from varfix.engine.video.clip import UNSPECIFIED, Layout, Samples
from varfix.engine.video.tone_map import tone_map_for

Floats = npt.NDArray[np.float32]

# Weights of red and blue in Y, by the matrix numbers of ISO/IEC 23091-2.
_LUMA_WEIGHTS: Final = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
}
_MAX_SD_LINES: Final = 576  # untagged files with more lines are BT.709


def known_matrix(number: int) -> bool:
    """Return whether frames of this matrix can be converted; unspecified ones can."""
    return number in _LUMA_WEIGHTS or number == UNSPECIFIED


class YcbcrConverter:
    """Converts between the stored samples of one video and RGB."""

    def __init__(self, layout: Layout, matrix: int, transfer: int = UNSPECIFIED) -> None:
        """Prepare both directions.

        Args:
            layout: Layout of the stored samples.
            matrix: Number of a known matrix, or unspecified.
            transfer: Number of the transfer characteristic; HDR is tone mapped.
        """
        self._tone_map = tone_map_for(transfer)
        if matrix == UNSPECIFIED:
            matrix = 1 if layout.height > _MAX_SD_LINES else 6
        self._layout = layout
        self._to_ycc = _to_ycc(*_LUMA_WEIGHTS[matrix])
        self._to_rgb = np.linalg.inv(self._to_ycc).astype(np.float32)
        self._to_ycc = self._to_ycc.astype(np.float32)
        step = 1 << (layout.depth - 8)
        most = (1 << layout.depth) - 1
        self._most = most
        # Code of black, code of neutral chroma, and number of codes from 0 to 1.
        self._black = 0 if layout.full else 16 * step
        self._neutral = 128 * step
        self._y_codes = np.float32(most if layout.full else 219 * step)
        self._c_codes = np.float32(most if layout.full else 224 * step)

    def to_rgb(self, planes: tuple[Samples, ...]) -> Floats:
        """Convert stored planes to RGB for a model.

        Returns:
            (H, W, 3) float32, clipped to [0, 1].
        """
        signal = self._signal(planes)
        return signal if self._tone_map is None else self._tone_map.to_model(signal)

    def codes_of(self, rgb: Floats) -> tuple[float, float, float]:
        """Return the codes (Y, Cb, Cr) of one color, (3,) float32 in [0, 1]."""
        y, cb, cr = (float(value) for value in self._to_ycc @ rgb)
        neutral = float(self._neutral)
        return (
            self._black + y * float(self._y_codes),
            neutral + cb * float(self._c_codes),
            neutral + cr * float(self._c_codes),
        )

    def _signal(self, planes: tuple[Samples, ...]) -> Floats:
        import cv2

        y = (planes[0].astype(np.float32) - self._black) / self._y_codes
        if self._layout.gray:
            return np.clip(np.repeat(y[..., np.newaxis], 3, axis=2), 0, 1)
        colors = [self._upsampled(plane) for plane in planes[1:3]]
        rgb = cv2.transform(cv2.merge([y, *colors]), self._to_rgb)
        return np.clip(rgb, 0, 1, out=rgb).astype(np.float32, copy=False)

    def apply_change(self, planes: tuple[Samples, ...], restored: Floats) -> tuple[Samples, ...]:
        """Apply the model's change to stored planes.

        Args:
            planes: Stored planes.
            restored: (H, W, 3) float32, the model's result for `to_rgb(planes)`.

        Returns:
            New planes of the same layout.

        Raises:
            NonFiniteError: A value is NaN or infinite.
        """
        import cv2

        change = self._change(planes, restored)
        if not np.isfinite(change).all():
            raise NonFiniteError("the model produced invalid values")
        if self._layout.gray:
            luma = change @ self._to_ycc[0]
            return (self._added(planes[0], luma * self._y_codes),)
        parts = cv2.split(cv2.transform(change, self._to_ycc))
        y = self._added(planes[0], parts[0] * self._y_codes)
        cb, cr = (
            self._added(plane, self._subsampled(np.asarray(part)) * self._c_codes)
            for plane, part in zip(planes[1:3], parts[1:], strict=True)
        )
        return y, cb, cr, *planes[3:]

    def _change(self, planes: tuple[Samples, ...], restored: Floats) -> Floats:
        """Return the model's change of the RGB signal."""
        before = self.to_rgb(planes)
        if self._tone_map is None or not np.isfinite(restored).all():
            return restored - before
        return self._tone_map.to_signal(restored) - self._tone_map.to_signal(before)

    def _added(self, plane: Samples, change: Floats) -> Samples:
        codes: Samples = np.clip(np.rint(plane + change), 0, self._most).astype(plane.dtype)
        return codes

    def _upsampled(self, plane: Samples) -> Floats:
        """Return chroma (H, W) at every pixel from stored codes (h, w)."""
        layout = self._layout
        values = (plane.astype(np.float32) - self._neutral) / self._c_codes
        if layout.down == 2:
            values = _doubled(values.T, layout.height, centered=True).T
        if layout.across == 2:
            values = _doubled(values, layout.width, centered=layout.centered)
        return values

    def _subsampled(self, values: Floats) -> Floats:
        """Return the means (h, w) of (H, W) around the place of every stored chroma sample."""
        layout = self._layout
        if layout.across == 2:
            values = _halved(values, centered=layout.centered)
        if layout.down == 2:
            values = _halved(values.T, centered=True).T
        return values


def _to_ycc(red: float, blue: float) -> npt.NDArray[np.float64]:
    """Return the matrix from RGB to Y in [0, 1] and Cb, Cr in [-0.5, 0.5]."""
    luma = np.array([red, 1 - red - blue, blue])
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    return np.stack([luma, cb, cr])


def _doubled(values: Floats, width: int, *, centered: bool) -> Floats:
    """Interpolate columns (H, w) at `width` places, two for each."""
    before = np.concatenate([values[:, :1], values[:, :-1]], axis=1)
    after = np.concatenate([values[:, 1:], values[:, -1:]], axis=1)
    out = np.empty((values.shape[0], 2 * values.shape[1]), np.float32)
    if centered:
        out[:, 0::2] = 0.75 * values + 0.25 * before
        out[:, 1::2] = 0.75 * values + 0.25 * after
    else:
        out[:, 0::2] = values
        out[:, 1::2] = 0.5 * (values + after)
    return out[:, :width]


def _halved(values: Floats, *, centered: bool) -> Floats:
    """Average columns (H, W) at half as many places."""
    if values.shape[1] % 2:
        values = np.concatenate([values, values[:, -1:]], axis=1)
    even, odd = values[:, 0::2], values[:, 1::2]
    if centered:
        return np.asarray(0.5 * (even + odd), np.float32)
    before = np.concatenate([even[:, :1], odd[:, :-1]], axis=1)
    return np.asarray(0.25 * before + 0.5 * even + 0.25 * odd, np.float32)
