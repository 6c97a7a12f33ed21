"""Keeps the tone of an image: removes the low frequencies of its change by the restoration.

Noise, compression and blur do not move the mean of an area; a network that removes them does by
accident. So the means of the change (result minus source) over cells of about 32 x 32 pixels are
measured, interpolated over the whole image, and subtracted: there are no seams between tiles. Where
noise was clipped at black or white, it did move the mean of the source. What the restored image
says of that is left in the change, unless the setting says `always`: then the means of the cells
are those of the source.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.prior_maps import changes_tone, sampling_matrix
from varfix.engine.restoration.strength import scale
from varfix.engine.settings.types import Settings, Strength

Floats = npt.NDArray[np.float32]

CELL: Final = 32
"""Side of a cell in pixels, about. White noise of 25 code values moves its mean by 0.8."""

SHARPENINGS: Final = 2
"""Steps toward the field whose interpolation has the means of the cells."""

DETAIL_TASKS: Final = frozenset({"noise", "blur"})
"""Tasks that are about detail; compression is a kind of noise."""

_FAINT: Final = 1e-6  # keeps divisions finite


def may_lock_tone(settings: Settings) -> bool:
    """Return whether the tone of some image is kept at these settings."""
    if settings.tile.tone_lock == "auto":
        return settings.model.task == "auto" or DETAIL_TASKS.issuperset(settings.model.tasks)
    return settings.tile.tone_lock == "always"


def locks_tone(settings: Settings, card: ModelCard, maps: Floats | None) -> bool:
    """Return whether the tone of the source is kept.

    Args:
        settings: Task, and the setting `tile.tone_lock`.
        card: Properties of the model.
        maps: Maps (C, 16, 16) of the prior, which say what is treated under the task `auto`.
    """
    if settings.tile.tone_lock != "auto" or settings.model.task != "auto":
        return may_lock_tone(settings)
    if maps is None:
        return DETAIL_TASKS.issuperset(card.tasks)
    return not changes_tone(maps)


class ToneCells:
    """Means over the cells of an image, collected from bands of rows.

    Attributes:
        change: (h, w, 3) float32, mean change of each cell at full strength.
        clipping: (h, w, 3) float32, at least 0 near black and at most 0 near white: by how much
            clipped noise moves the mean of each cell, as the restored image says.
    """

    def __init__(self, height: int, width: int, *, exact: bool = False) -> None:
        """Begin an image of this size.

        Args:
            height: In pixels.
            width: In pixels.
            exact: Whether `remove_change` also removes what clipped noise explains.
        """
        self._height, self._width, self._exact = height, width, exact
        count = -(-height // CELL)
        self._bounds = [round(row * height / count) for row in range(count + 1)]
        self._row = 0
        self._pending: list[tuple[Floats, Floats]] = []
        self.change = np.zeros((count, -(-width // CELL), 3), np.float32)
        self.clipping = np.zeros_like(self.change)

    def add(self, source: Floats, restored: Floats) -> None:
        """Measure the next rows (n, W, 3) of both images, from top to bottom."""
        top = self._bounds[self._row] + sum(len(rows) for rows, _ in self._pending)
        first, end = top, top + len(source)
        while first < end:
            last = min(self._bounds[self._row + 1], end)
            part = slice(first - top, last - top)
            self._take(source[part], restored[part], last == self._bounds[self._row + 1])
            first = last

    def _take(self, source: Floats, restored: Floats, is_complete: bool) -> None:
        """Keep rows of the current row of cells; measure it once it is complete."""
        if not is_complete:
            self._pending.append((source.copy(), restored.copy()))
            return
        if self._pending:
            pieces = [*self._pending, (source, restored)]
            source = np.concatenate([piece for piece, _ in pieces])
            restored = np.concatenate([piece for _, piece in pieces])
            self._pending.clear()
        measured = _measure(source, restored, self.change.shape[1])
        self.change[self._row], self.clipping[self._row] = measured
        self._row += 1

    def remove_change(self, image: Floats, strength: Strength) -> None:
        """Subtract the low frequencies from a restored image, in place; change what remains.

        Args:
            image: (H, W, 3) in [0, 1], the whole image after blending at this strength.
            strength: The strength.
        """
        field = self._sharpened(self.change) if self._exact else self.change + self.clipping
        if not field.any():
            return
        scaled = scale(field.copy(), strength)
        for row in range(len(field)):
            band = image[self._bounds[row] : self._bounds[row + 1]]
            band -= self._interpolated(scaled, row)
            np.clip(band, 0.0, 1.0, out=band)
            self.change[row] -= self._interpolated_means(field, row)

    def _sharpened(self, field: Floats) -> Floats:
        """Return a field whose interpolation has nearly the means of this one (Van Cittert 1931).

        Interpolation smooths; without this, noise of 50 code values leaves 0.4 in the means.
        """
        sharp = field
        for _ in range(SHARPENINGS):
            means = [self._interpolated_means(sharp, row) for row in range(len(field))]
            sharp = sharp + field - np.stack(means)
        return sharp

    def _interpolated_means(self, field: Floats, row: int) -> Floats:
        """Return the means (w, 3) of one row of cells of an interpolated field."""
        return _means(self._interpolated(field, row), field.shape[1])

    def _interpolated(self, field: Floats, row: int) -> Floats:
        """Return a field (h, w, 3) of the cells at the pixels of one row of cells, (n, W, 3)."""
        import cv2

        top, count = self._bounds[row], self._bounds[row + 1] - self._bounds[row]
        weights = sampling_matrix(top, count, 1, self._height, len(field))
        rows = (weights @ field.reshape(len(field), -1)).reshape(count, -1, 3)
        pixels = cv2.resize(rows, (self._width, count), interpolation=cv2.INTER_LINEAR)
        return np.asarray(pixels, np.float32).reshape(count, self._width, 3)


def tone_shift(change: Floats, strength: Strength) -> float:
    """Return how far the tone of an image moves.

    Args:
        change: (h, w, 3), mean change of each cell at full strength.
        strength: The strength.

    Returns:
        The mean magnitude over cells and colors, on a scale from black (0) to white (1).
    """
    return float(np.abs(scale(change.copy(), strength)).mean())


def _measure(source: Floats, restored: Floats, cells: int) -> tuple[Floats, Floats]:
    """Return the mean change and the effect of clipping in one row of cells, (cells, 3) each."""
    change = restored - source
    mean = _means(change, cells)
    if source.min() > 0.0 and source.max() < 1.0:
        return mean, np.zeros_like(mean)
    # Clipped noise is cut on one side; the other side still tells its standard deviation.
    sides = [_means(np.square(side(change, 0.0)), cells) for side in (np.minimum, np.maximum)]
    noise = np.sqrt(2.0 * np.maximum(*sides))
    columns = np.arange(source.shape[1]) * cells // source.shape[1]  # cell of each column
    deviation = noise[columns]
    divisor = np.maximum(deviation, _FAINT)
    effect = _excess(restored / divisor) - _excess((1.0 - restored) / divisor)
    return mean, _means(effect * deviation, cells)


def _excess(distance: Floats) -> Floats:
    """Return by how much clipping moves the mean of normal noise, in standard deviations.

    This is `phi(z) - z Phi(-z)`, the normal density and distribution, within 0.005.

    Args:
        distance: z at least 0, distance of the true value from the limit, in standard deviations.
    """
    falloff = distance * (np.float32(1.207) + np.float32(0.359) * distance)
    excess: Floats = np.exp(np.float32(-0.919) - falloff)
    return excess


def _means(rows: Floats, cells: int) -> Floats:
    """Return the means of rows (n, W, 3) over equal parts of their width, (cells, 3)."""
    import cv2

    means = cv2.resize(rows, (cells, 1), interpolation=cv2.INTER_AREA)
    return np.asarray(means, np.float32).reshape(cells, 3)
