"""Averages frames with their neighbors before they are restored, where they agree.

Noise is new in every frame, and what is seen stays: the average of 2 W + 1 frames has a fraction
of the noise and all of the detail, so that the model need not smooth it away. A neighbor counts
where it differs from the frame by no more than the noise, either at the same place or moved with
the camera; on what moves on its own, across cuts, and where there is no noise, it does not count.
Low frequencies stay those of the frame itself, so that fades and flicker of the light are neither
delayed nor mixed.

A result depends on at most W frames on each side, and on no other state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.video.denoise.clipped_noise import clipping_error
from varfix.engine.video.denoise.frame_motion import Shift, find_shift, shifted
from varfix.engine.video.sliding_window import windows

Floats = npt.NDArray[np.float32]

PATCH: Final = 5
"""Side of the squares that are compared, in pixels of half size."""

COARSE: Final = 15
"""Side of the squares whose means are left as they are, in pixels of half size."""

LEAST_NOISE: Final = 1.0 / 255.0
"""Standard deviation at half size below which frames are not averaged."""

_QUANTILE: Final = 0.05
# Of the mean square over a patch in noise, and of the square of its mean, this quantile is so much
# of their expectation (chi-squared with 75 and 3 degrees of freedom).
_QUANTILE_OF_SQUARE, _QUANTILE_OF_MEAN = 0.73, 0.117
# Differences count in full up to the first multiple of the expectation, not at all from the second.
_SQUARE_LIMITS: Final = (1.3, 2.0)
_MEAN_LIMITS: Final = (2.5, 5.0)
_COARSE_LIMITS: Final = (0.06, 0.12)  # differences of coarse means, from 0 to 1
_SPATIAL_FACTOR: Final = 1.5  # noise over time is at most so much of the noise within a frame
_CLIPPED: Final = (0.02, 0.98)  # brightness beyond which noise may be clipped
_LEAST: Final = 0.15  # mean weight of a neighbor; less is a coincidence
_MOST: Final = 0.5  # mean weight of a motion that is not questioned
_NEIGHBORS: Final = 2.0  # as many must agree for a full correction of clipped noise
_STILL: Final = 0.125  # pixels of half size: less is no motion


@dataclass(frozen=True)
class KnownNoise:
    """Noise of a frame and of its average with its neighbors, at half size.

    Attributes:
        variance: (h, w), variance of the frame's noise at full size, per color.
        neighbors: (h, w), number of neighbors that agree, in parts.
        share: (h, w) in (0, 1], what the average leaves of the variance.
    """

    variance: Floats
    neighbors: Floats
    share: Floats


@dataclass(frozen=True)
class Averaged:
    """A frame and its average.

    Attributes:
        index: Number of the frame.
        source: (H, W, 3) float32 in [0, 1].
        pixels: The average with its neighbors; `source` itself if nothing was averaged.
        noise: What is known of the noise; None if nothing was averaged.
    """

    index: int
    source: Floats
    pixels: Floats
    noise: KnownNoise | None = None


@dataclass(frozen=True)
class _Frame:
    """A frame at half size.

    Attributes:
        index: Number of the frame.
        pixels: (H, W, 3).
        small: (H / 2, W / 2, 3).
        noise: Variance within the frame where it is smoothest, per color.
        shift: Motion from the previous frame to this one, in pixels of half size.
    """

    index: int
    pixels: Floats
    small: Floats
    noise: float
    shift: Shift


@dataclass(frozen=True)
class _Agreement:
    """How far a neighbor agrees with a frame, at half size.

    Attributes:
        weight: (h, w) in [0, 1].
        square: (h, w), mean square of the differences around each pixel, sum of the colors.
        coarse: (h, w, 3), difference of the coarse means, neighbor minus frame.
        shift: Motion of the neighbor, in pixels of half size.
    """

    weight: Floats
    square: Floats
    coarse: Floats
    shift: Shift


def average_over_time(frames: Iterable[tuple[int, Floats]], window: int) -> Iterator[Averaged]:
    """Average each frame of a video with its neighbors.

    Args:
        frames: Numbers and pixels (H, W, 3) float32 in [0, 1], all of one size, in order.
        window: Neighbors on each side; 0 returns the frames as they are.

    Yields:
        Every frame, in order. Frames less than `window` from an end have fewer neighbors.
    """
    if window == 0:
        yield from (Averaged(index, pixels, pixels) for index, pixels in frames)
        return
    for past, now, ahead in windows(_halved(frames), window, window):
        yield _average(now, past, ahead)


def _halved(frames: Iterable[tuple[int, Floats]]) -> Iterator[_Frame]:
    import cv2

    before: Floats | None = None
    for index, pixels in frames:
        size = -(-pixels.shape[1] // 2), -(-pixels.shape[0] // 2)
        small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32)
        small = small.reshape(size[1], size[0], 3)
        luma = _luma(small)
        noise = _noise_within(small, luma)
        is_noisy = noise > LEAST_NOISE**2
        shift = find_shift(before, luma) if is_noisy and before is not None else (0.0, 0.0)
        yield _Frame(index, pixels, small, noise, shift)
        before = luma


def _noise_within(small: Floats, luma: Floats) -> float:
    """Return the variance of white noise in the smoothest parts of (h, w, 3), per color.

    By the operator of Immerkaer 1996, which ignores edges of any direction.
    """
    import cv2

    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / np.float32(6.0)
    response = cv2.filter2D(small, -1, kernel, borderType=cv2.BORDER_REFLECT)
    power = _patch_mean(np.einsum("hwc,hwc->hw", response, response)) / np.float32(3.0)
    return _low_quantile(power, luma) / _QUANTILE_OF_SQUARE


def _low_quantile(values: Floats, luma: Floats) -> float:
    """Return a low quantile of (h, w) where nothing is clipped; 0 if that is nearly nowhere."""
    part = slice(None, None, 2), slice(None, None, 2)
    is_inner = (luma[part] > _CLIPPED[0]) & (luma[part] < _CLIPPED[1])
    inner = values[part][is_inner]
    return float(np.quantile(inner, _QUANTILE)) if inner.size * 20 > is_inner.size else 0.0


def _luma(small: Floats) -> Floats:
    import cv2

    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.float32)


def _for_each_color(values: Floats) -> Floats:
    """Return (h, w) as (h, w, 3)."""
    import cv2

    return np.asarray(cv2.merge([values] * 3), np.float32)


def _patch_mean(values: Floats, side: int = PATCH) -> Floats:
    import cv2

    return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)


def _average(now: _Frame, past: tuple[_Frame, ...], ahead: tuple[_Frame, ...]) -> Averaged:
    """Return the average of a frame with its neighbors."""
    unchanged = Averaged(now.index, now.pixels, now.pixels)
    if now.noise <= LEAST_NOISE**2:
        return unchanged
    neighbors = [*_moved(now, past), *_moved(now, ahead)]
    agreed = [(other, _agreement(now, other, shift)) for other, shift in neighbors]
    agreed = [(other, found) for other, found in agreed if float(found.weight.mean()) > _LEAST]
    if not agreed:
        return unchanged
    total = np.ones(now.small.shape[:2], np.float32)
    coarse = np.zeros_like(now.small)
    sums = now.pixels.copy()
    for other, found in agreed:
        total += found.weight
        coarse += found.weight[..., None] * found.coarse
        _add_product(sums, other.pixels, found)
    noise = _known_noise(now, agreed, total)
    average = _divided(sums, coarse, total)
    return Averaged(now.index, now.pixels, _corrected(average, noise), noise)


def _known_noise(now: _Frame, agreed: list[tuple[_Frame, _Agreement]], total: Floats) -> KnownNoise:
    """Return what the neighbors that agree tell about the noise.

    Args:
        now: The frame.
        agreed: Its neighbors.
        total: (h, w), sum of all weights, 1 for the frame.
    """
    squares, weights = np.zeros_like(total), np.zeros_like(total)
    for _, found in agreed:
        squares += found.weight * found.square
        weights += np.square(found.weight)
    neighbors = total - 1.0
    # Half of the variance of a difference of two frames; where none agrees, that of the frame.
    known = squares / np.maximum(neighbors, 0.5) / 6.0
    variance = np.where(neighbors >= 0.5, known, np.float32(now.noise)).astype(np.float32)
    variance *= np.float32(_noise_ratio(now, agreed))
    share: Floats = np.divide(1.0 + weights, np.square(total), dtype=np.float32)
    return KnownNoise(variance, neighbors, share)


def _noise_ratio(now: _Frame, agreed: list[tuple[_Frame, _Agreement]]) -> float:
    """Return the variance of the noise at full size by that at half size, from 1 to 4."""
    other, found = max(agreed, key=lambda pair: float(pair[1].weight.mean()))
    pixels = other.pixels
    if found.shift != (0.0, 0.0):
        pixels = shifted(pixels, (2.0 * found.shift[0], 2.0 * found.shift[1]))
    difference = pixels[::4, ::2] - now.pixels[::4, ::2]
    weight = found.weight[::2]
    full = float((weight * np.einsum("hwc,hwc->hw", difference, difference)).sum())
    half = float((weight * found.square[::2]).sum())
    return min(max(full / max(half, 1e-12), 1.0), 4.0)


def _moved(now: _Frame, others: tuple[_Frame, ...]) -> Iterator[tuple[_Frame, Shift]]:
    """Yield each neighbor with its motion from the frame, in pixels of half size."""
    is_past = bool(others) and others[0].index < now.index
    right, down = 0.0, 0.0
    for other in reversed(others) if is_past else others:
        step = now.shift if is_past else other.shift
        sign = -1.0 if is_past else 1.0
        right, down = right + sign * step[0], down + sign * step[1]
        yield other, (right, down)
        now = other


def _agreement(now: _Frame, other: _Frame, shift: Shift) -> _Agreement:
    """Return where a neighbor agrees with a frame: at its place, or else moved by the shift."""
    shift = _rounded(shift)
    moved = _compared(now, other, shift)
    if shift == (0.0, 0.0) or float(moved.weight.mean()) > _MOST:
        return moved
    still = _compared(now, other, (0.0, 0.0))
    return moved if float(moved.weight.mean()) > float(still.weight.mean()) else still


def _rounded(shift: Shift) -> Shift:
    """Return a shift in half pixels, which are whole pixels of the frame, if it is close to one."""
    right, down = (
        round(2.0 * part) / 2.0 if abs(2.0 * part - round(2.0 * part)) < 2.0 * _STILL else part
        for part in shift
    )
    return right, down


def _compared(now: _Frame, other: _Frame, shift: Shift) -> _Agreement:
    """Return where a neighbor, moved by the shift, agrees with a frame."""
    small = other.small if shift == (0.0, 0.0) else shifted(other.small, shift)
    difference = small - now.small
    coarse = _patch_mean(difference, COARSE)
    difference -= coarse
    square = _patch_mean(np.einsum("hwc,hwc->hw", difference, difference))
    mean = _patch_mean(difference)
    mean_square = np.einsum("hwc,hwc->hw", mean, mean)
    luma = _luma(now.small)
    limit = 6.0 * _SPATIAL_FACTOR * now.noise  # three colors of two frames
    noise = min(_low_quantile(square, luma) / _QUANTILE_OF_SQUARE, limit)
    noise_of_mean = min(_low_quantile(mean_square, luma) / _QUANTILE_OF_MEAN, noise)
    weight = _falling(square, noise, _SQUARE_LIMITS)
    weight *= _falling(mean_square, noise_of_mean, _MEAN_LIMITS)
    weight *= _falling(np.abs(coarse).max(-1), 1.0, _COARSE_LIMITS)
    return _Agreement(weight, square, coarse, shift)


def _falling(values: Floats, unit: float, limits: tuple[float, float]) -> Floats:
    """Return 1 up to the first limit, falling linearly to 0 at the second, in units above 0."""
    low, high = (limit * unit for limit in limits)
    if high <= 0.0:
        return np.zeros_like(values)
    share: Floats = np.clip((high - values) / np.float32(high - low), 0.0, 1.0)
    return share


def _add_product(sums: Floats, pixels: Floats, found: _Agreement) -> None:
    """Add a neighbor (H, W, 3), moved and weighted, to sums of the same shape."""
    import cv2

    if found.shift != (0.0, 0.0):
        pixels = shifted(pixels, (2.0 * found.shift[0], 2.0 * found.shift[1]))
    weight = _enlarged(_for_each_color(found.weight), (pixels.shape[0], pixels.shape[1]))
    cv2.accumulateProduct(pixels, weight, sums)


def _divided(sums: Floats, coarse: Floats, total: Floats) -> Floats:
    """Return the weighted mean (H, W, 3) in [0, 1], without the differences of coarse means."""
    size = sums.shape[0], sums.shape[1]
    sums -= _enlarged(coarse, size)
    sums /= _enlarged(_for_each_color(total), size)
    return np.clip(sums, 0.0, 1.0, out=sums)


def _corrected(average: Floats, noise: KnownNoise) -> Floats:
    """Remove the effect of clipped noise from an average (H, W, 3), in place."""
    import cv2

    height, width = noise.variance.shape
    small = cv2.resize(average, (width, height), interpolation=cv2.INTER_AREA)
    mean = _patch_mean(np.asarray(small, np.float32).reshape(height, width, 3))
    error = clipping_error(mean, np.sqrt(noise.variance))
    # Noise that was not averaged is left to the model, which knows clipped noise.
    error *= np.clip(noise.neighbors / np.float32(_NEIGHBORS), 0.0, 1.0)[..., None]
    if error.any():
        average -= _enlarged(error, (average.shape[0], average.shape[1]))
        np.clip(average, 0.0, 1.0, out=average)
    return average


def _enlarged(values: Floats, size: tuple[int, int]) -> Floats:
    """Return (h, w, 3) at the size (H, W, 3) of the frame."""
    import cv2

    enlarged = cv2.resize(values, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return np.asarray(enlarged, np.float32).reshape(*size, 3)
