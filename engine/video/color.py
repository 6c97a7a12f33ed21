"""Y'CbCr samples shown to the model as RGB, and changed as the model changes them.

The matrix is the one that the file names, or that players assume where it names none, the same in
both directions. Not the restored RGB is stored but the *change*::

    stored' = stored + shrunk(matrix(restored - to_rgb(stored)))

So what the model leaves alone comes back code for code, at any depth and any sampling of color;
samples below black or above white, which RGB in [0, 1] cannot hold, survive as well.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.errors import NonFiniteError
from varfix.engine.video.clip import UNSPECIFIED, Layout, Samples

Floats = npt.NDArray[np.float32]

# Shares of red and blue in Y, by the matrix numbers of ISO/IEC 23091-2.
_SHARES: Final = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, not constant luminance
}
_LINES_OF_HD: Final = 576  # more lines than that: BT.709 where the file says nothing


def known_matrix(number: int) -> bool:
    """Whether frames of this matrix can be shown; one that is not named can."""
    return number in _SHARES or number == UNSPECIFIED


class YcbcrConverter:
    """Both ways between the stored samples of one clip and RGB."""

    def __init__(self, layout: Layout, matrix: int) -> None:
        """Prepare both ways.

        Args:
            layout: of the stored samples.
            matrix: number that the file gives; a known one.
        """
        if matrix == UNSPECIFIED:
            matrix = 1 if layout.height > _LINES_OF_HD else 6
        self._layout = layout
        self._to_ycc = _to_ycc(*_SHARES[matrix])
        self._to_rgb = np.linalg.inv(self._to_ycc).astype(np.float32)
        self._to_ycc = self._to_ycc.astype(np.float32)
        step = 1 << (layout.depth - 8)
        most = (1 << layout.depth) - 1
        self._most = most
        # Codes of black and of no color, and codes between 0 and 1.
        self._black = 0 if layout.full else 16 * step
        self._neutral = 128 * step
        self._y_codes = np.float32(most if layout.full else 219 * step)
        self._c_codes = np.float32(most if layout.full else 224 * step)

    def to_rgb(self, planes: tuple[Samples, ...]) -> Floats:
        """Turn stored planes into RGB.

        Returns:
            (H, W, 3) float32 in [0, 1]; what lies outside is clipped.
        """
        import cv2

        y = (planes[0].astype(np.float32) - self._black) / self._y_codes
        if self._layout.gray:
            return np.clip(np.repeat(y[..., np.newaxis], 3, axis=2), 0, 1)
        colors = [self._stretched(plane) for plane in planes[1:]]
        rgb = cv2.transform(cv2.merge([y, *colors]), self._to_rgb)
        return np.clip(rgb, 0, 1, out=rgb).astype(np.float32, copy=False)

    def apply_change(self, planes: tuple[Samples, ...], restored: Floats) -> tuple[Samples, ...]:
        """Change stored planes as the model changed what it was shown.

        Args:
            planes: as stored.
            restored: (H, W, 3) float32, the model's result for `to_rgb(planes)`.

        Returns:
            New planes of the same layout.

        Raises:
            NonFiniteError: A value is NaN or infinite.
        """
        import cv2

        change = restored - self.to_rgb(planes)
        if not np.isfinite(change).all():
            raise NonFiniteError("the model produced invalid values")
        if self._layout.gray:
            luma = change @ self._to_ycc[0]
            return (self._added(planes[0], luma * self._y_codes),)
        parts = cv2.split(cv2.transform(change, self._to_ycc))
        y = self._added(planes[0], parts[0] * self._y_codes)
        cb, cr = (
            self._added(plane, self._shrunk(np.asarray(part)) * self._c_codes)
            for plane, part in zip(planes[1:], parts[1:], strict=True)
        )
        return y, cb, cr

    def _added(self, plane: Samples, change: Floats) -> Samples:
        codes: Samples = np.clip(np.rint(plane + change), 0, self._most).astype(plane.dtype)
        return codes

    def _stretched(self, plane: Samples) -> Floats:
        """Color differences (h, w) of the stored codes at every pixel, (H, W)."""
        layout = self._layout
        values = (plane.astype(np.float32) - self._neutral) / self._c_codes
        if layout.down == 2:
            values = _doubled(values.T, layout.height, centered=True).T
        if layout.across == 2:
            values = _doubled(values, layout.width, centered=layout.centered)
        return values

    def _shrunk(self, values: Floats) -> Floats:
        """Means of (H, W) around the place of every stored color sample, (h, w)."""
        layout = self._layout
        if layout.across == 2:
            values = _halved(values, centered=layout.centered)
        if layout.down == 2:
            values = _halved(values.T, centered=True).T
        return values


def _to_ycc(red: float, blue: float) -> npt.NDArray[np.float64]:
    """The matrix from RGB to Y in [0, 1] and Cb, Cr in [-0.5, 0.5]."""
    luma = np.array([red, 1 - red - blue, blue])
    cb = (np.array([0, 0, 1]) - luma) / (2 * (1 - blue))
    cr = (np.array([1, 0, 0]) - luma) / (2 * (1 - red))
    return np.stack([luma, cb, cr])


def _doubled(values: Floats, width: int, *, centered: bool) -> Floats:
    """Columns (H, w) interpolated at `width` places, two for each."""
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
    """Means of columns (H, W) at half as many places."""
    if values.shape[1] % 2:
        values = np.concatenate([values, values[:, -1:]], axis=1)
    even, odd = values[:, 0::2], values[:, 1::2]
    if centered:
        return np.asarray(0.5 * (even + odd), np.float32)
    before = np.concatenate([even[:, :1], odd[:, :-1]], axis=1)
    return np.asarray(0.25 * before + 0.5 * even + 0.25 * odd, np.float32)
