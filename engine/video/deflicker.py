"""Restores the frames of a video without flicker.

Frames that are restored independently get different tones even where the video does not change.
Three measures reduce this, all within a scene:

* What is wrong with a scene is decided once (`varfix.engine.video.scene_survey`).
* The prior of a frame is a weighted average of the priors of the key frames around it. The weight
  of each key frame, at each place of the image, depends on its similarity to the frame: where the
  source's own tone changes, an unweighted average over time lags behind, and flickers more than no
  average.
* The low-pass step averages low frequencies after restoration
  (`varfix.engine.video.low_frequency`).

Before that, frames are averaged with their neighbors
(`varfix.engine.video.denoise.temporal_average`).

Everything depends on absolute frame numbers and on frames at most `temporal_context` away, so that
separately computed segments of a video fit together bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from varfix.engine.errors import NonFiniteError
from varfix.engine.restoration.prior_input import PriorInput, native_crops, thumbnail
from varfix.engine.restoration.restore_image import restore_and_measure
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.restoration.strength import blend, scale
from varfix.engine.restoration.tone_lock import locks_tone, tone_shift
from varfix.engine.settings.types import Settings, Strength
from varfix.engine.video.denoise.returned_detail import return_detail
from varfix.engine.video.denoise.temporal_average import KnownNoise, average_over_time
from varfix.engine.video.low_frequency import (
    LowFrequencies,
    add,
    correction,
    low_frequencies,
    similarity,
)
from varfix.engine.video.scene_cuts import REACH, SIDE, is_cut
from varfix.engine.video.scene_survey import SceneSurvey
from varfix.engine.video.sliding_window import windows

Floats = npt.NDArray[np.float32]
NumberedPixels = tuple[int, Floats]

TONE: Final = 0.02
"""Root mean square difference at which places of two thumbnails are still similar."""

MIN_SIMILARITY: Final = 0.5
"""A frame less similar than this to all key frames around it becomes its own key frame."""


@dataclass(frozen=True)
class DeflickerSettings:
    """Settings of the deflicker filter.

    Attributes:
        window: Neighboring frames on each side, at least 0; 0 restores each frame independently.
        prior_interval: Distance of key frames, whose priors are computed, in frames; at least 1.
        lowpass: Whether to average low frequencies after restoration.
        denoise_window: Neighboring frames on each side with which a frame is averaged before it is
            restored, at least 0; for the task `noise`, and for models that remove noise.
    """

    window: int = 4
    prior_interval: int = 2
    lowpass: bool = True
    denoise_window: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises:
            ValueError: A number is out of range.
        """
        if min(self.window, self.denoise_window) < 0 or self.prior_interval < 1:
            raise ValueError("windows must be at least 0, and prior_interval at least 1")


@dataclass(frozen=True)
class DeflickerPorts:
    """What the filter asks for, and reports to.

    Attributes:
        survey: Says what is wrong with each scene; None to judge each key frame by itself.
        on_tone_shift: Receives the shift of each wanted frame's tone by the restoration, in [0, 1].
    """

    survey: SceneSurvey | None = None
    on_tone_shift: Callable[[float], None] = lambda shift: None


def temporal_context(deflicker_settings: DeflickerSettings) -> int:
    """Return the number of frames before and after a segment on which its result depends."""
    averaged = deflicker_settings.denoise_window
    if deflicker_settings.window == 0:
        return averaged
    windows_each_side = 2 if deflicker_settings.lowpass else 1
    return deflicker_settings.window * windows_each_side + REACH - 1 + averaged


def deflicker(
    restorer: Restorer,
    frames: Iterable[NumberedPixels],
    wanted: range,
    settings: Settings,
    deflicker_settings: DeflickerSettings,
    ports: DeflickerPorts = DeflickerPorts(),
) -> Iterator[NumberedPixels]:
    """Restore frames of a video.

    At most about `2 * window + 2 * denoise_window + 5` frames are in memory at once, however long
    the video; at a strength below 1, of some of them source and average.

    Args:
        restorer: The model.
        frames: Numbers and pixels (H, W, 3) float32 in [0, 1], all of one size, in order and
            without gaps, from `temporal_context` frames before `wanted` (or the first frame) to
            `temporal_context` frames after it (or the last frame). Pixels are never changed.
        wanted: Numbers of the frames to return, ascending by one.
        settings: Strength, task and tiling.
        deflicker_settings: Window, key frames and low-pass.
        ports: What the filter asks for, and reports to.

    Yields:
        Number and pixels (H, W, 3) float32 in [0, 1] of each wanted frame, in order. At strength
        0, and without averaging from a model that changes nothing, these are the source's bit for
        bit.

    Raises:
        NonFiniteError: The model produced invalid values; the message names the frame.
        DeviceMemoryError: A single tile does not fit the device.
    """
    if settings.strengths.is_zero:
        yield from ((index, pixels) for index, pixels in frames if index in wanted)
        return
    stages = _Deflicker(restorer, settings, deflicker_settings, wanted, ports)
    analyzed = stages.detect_scenes(stages.analyze(frames))
    yield from stages.average_low_frequencies(stages.restore(analyzed))


@dataclass(frozen=True)
class _Analyzed:
    """A source frame, with the data that its neighbors need, and its pixels until it is restored.

    Attributes:
        index: Number of the frame.
        small: (SIDE, SIDE, 3) float32 in [0, 1], for comparisons.
        thumbnail: Input of the prior, (S, S, 3); None for models without image guidance.
        crops: Second input of the prior, (5, 64, 64, 3) float16; None except for key frames.
        pixels: (H, W, 3), averaged over time; None where they are not needed, or no longer.
        source: (H, W, 3) before averaging; None where the result needs none of it.
        noise: What the average over time tells about the noise; None where nothing was averaged.
        scene: Number of the scene.
    """

    index: int
    small: Floats
    thumbnail: Floats | None
    crops: npt.NDArray[np.float16] | None
    pixels: Floats | None
    source: Floats | None
    noise: KnownNoise | None
    scene: int = 0


@dataclass(frozen=True)
class _Restored:
    """A restored frame; it has pixels only if it is wanted and not yet returned."""

    index: int
    scene: int
    pixels: Floats | None
    low_frequencies: LowFrequencies | None


class _Deflicker:
    """The stages of the filter, each a generator over the previous one."""

    def __init__(
        self,
        restorer: Restorer,
        settings: Settings,
        deflicker_settings: DeflickerSettings,
        wanted: range,
        ports: DeflickerPorts,
    ) -> None:
        self._restorer, self._ports = restorer, ports
        self._strength = settings.strengths
        self._full = msgspec.structs.replace(settings, strength=1.0)
        self._guided = restorer.card.guidance == "image"
        self._interval = deflicker_settings.prior_interval
        self._span = deflicker_settings.window if self._guided else 0
        self._lowpass_span = deflicker_settings.window if deflicker_settings.lowpass else 0
        self._wanted = wanted
        self._needed = range(wanted.start - self._lowpass_span, wanted.stop + self._lowpass_span)
        is_asked = "noise" in (*settings.model.tasks, *restorer.card.tasks)
        self._denoise_window = deflicker_settings.denoise_window if is_asked else 0
        self._priors: dict[int, Floats] = {}

    def analyze(self, frames: Iterable[NumberedPixels]) -> Iterator[_Analyzed]:
        """Average each frame with its neighbors, and compute the thumbnails of the average."""
        # At full strength nothing of the frame itself remains, so its memory is saved.
        is_blended = self._strength != Strength()
        for frame in average_over_time(frames, self._denoise_window):
            pixels, is_needed = frame.pixels, frame.index in self._needed
            larger = thumbnail(pixels, self._restorer.card.thumbnail) if self._guided else None
            is_key = self._guided and frame.index % self._interval == 0
            crops = _half_crops(pixels) if is_key else None
            small = thumbnail(pixels if larger is None else larger, SIDE)
            analyzed = _Analyzed(
                frame.index,
                small,
                larger,
                crops,
                pixels,
                frame.source if is_blended else None,
                frame.noise,
            )
            del frame, pixels  # no reference while the next frame is averaged
            yield analyzed if is_needed else _without_pixels(analyzed)
            del analyzed

    def detect_scenes(self, frames: Iterator[_Analyzed]) -> Iterator[_Analyzed]:
        """Number the scenes."""
        scene, reach = 0, REACH if self._span or self._lowpass_span else 0
        for past, now, ahead in windows(frames, reach, max(0, reach - 1), _without_pixels):
            scene += is_cut(
                [frame.small for frame in past], [frame.small for frame in (now, *ahead)]
            )
            yield replace(now, scene=scene)

    def restore(self, frames: Iterator[_Analyzed]) -> Iterator[_Restored]:
        """Restore each frame that a wanted one depends on."""
        for past, now, ahead in windows(frames, self._span, self._span, _without_pixels):
            if now.pixels is None:
                continue
            near = [frame for frame in (*past, now, *ahead) if frame.scene == now.scene]
            try:
                yield self._restore_frame(now, now.pixels, near)
            except NonFiniteError as error:
                message = f"frame {now.index}: {error.message}"
                raise NonFiniteError(message, hint=error.hint, tile=error.tile) from error

    def average_low_frequencies(self, frames: Iterator[_Restored]) -> Iterator[NumberedPixels]:
        """Average the low frequencies of the wanted frames over time; yield the frames."""
        for past, now, ahead in windows(
            frames, self._lowpass_span, self._lowpass_span, _without_restored_pixels
        ):
            if now.pixels is None:
                continue
            if now.low_frequencies is not None:
                change = correction(now.low_frequencies, self._scene_mates(now, (*past, *ahead)))
                add(now.pixels, scale(change, self._strength))
            yield now.index, now.pixels
            if now.index + 1 == self._wanted.stop:
                return

    def _restore_frame(self, now: _Analyzed, pixels: Floats, near: list[_Analyzed]) -> _Restored:
        maps = self._maps(now, near) if self._guided else None
        restored = restore_and_measure(self._restorer, pixels, self._full, maps=maps)
        full = restored.pixels
        measured = low_frequencies(pixels, full) if self._lowpass_span else None
        if now.noise is not None and locks_tone(self._full, self._restorer.card, maps):
            return_detail(full, pixels, now.noise)
        if now.index not in self._wanted:
            return _Restored(now.index, now.scene, None, measured)
        self._ports.on_tone_shift(tone_shift(restored.tone_change, self._strength))
        kept = blend(pixels if now.source is None else now.source, full, self._strength)
        return _Restored(now.index, now.scene, kept, measured)

    def _scene_mates(
        self, now: _Restored, others: Iterable[_Restored]
    ) -> Iterator[tuple[float, LowFrequencies]]:
        """Yield weight by distance, and low frequencies, of the frames of the same scene."""
        for other in others:
            if other.scene == now.scene and other.low_frequencies is not None:
                yield (
                    temporal_weight(other.index - now.index, self._lowpass_span),
                    other.low_frequencies,
                )

    def _maps(self, now: _Analyzed, near: list[_Analyzed]) -> Floats:
        """Return the average prior (C, 16, 16) of the key frames of the same scene."""
        keys = [frame for frame in near if frame.index % self._interval == 0]
        similar = [similarity(now.small, key.small, TONE) for key in keys]
        if max((float(values.mean()) for values in similar), default=0.0) < MIN_SIMILARITY:
            keys.append(now)
            similar.append(np.ones((SIDE, SIDE), np.float32))
        self._forget(now.index - self._span)
        if len(keys) == 1:
            return self._prior(keys[0])
        weights = [
            values * np.float32(temporal_weight(key.index - now.index, self._span))
            for values, key in zip(similar, keys, strict=True)
        ]
        maps = [self._prior(key) * weight for weight, key in zip(weights, keys, strict=True)]
        average: Floats = np.sum(maps, axis=0) / np.sum(weights, axis=0)
        return average

    def _prior(self, key: _Analyzed) -> Floats:
        """Return a key frame's prior; compute it once."""
        maps = self._priors.get(key.index)
        if maps is None:
            assert key.thumbnail is not None
            crops = key.crops
            if crops is None:
                # A frame that is a key for itself alone is being restored, so its pixels are there.
                assert key.pixels is not None
                crops = _half_crops(key.pixels)
            survey = self._ports.survey
            prior_input = PriorInput(
                key.thumbnail,
                self._full.model.task,
                crops.astype(np.float32),
                survey.at(key.index).of_frame(key.small) if survey else None,
            )
            maps = self._restorer.prior(prior_input)
            assert maps is not None
            self._priors[key.index] = maps
        return maps

    def _forget(self, before: int) -> None:
        for index in [index for index in self._priors if index < before]:
            del self._priors[index]


def _half_crops(pixels: Floats) -> npt.NDArray[np.float16]:
    """Return the crops of a frame in half the memory: those of all frames of a window wait."""
    return native_crops(pixels).astype(np.float16)


def temporal_weight(distance: int, span: int) -> float:
    """Return the weight in (0, 1] of a frame that is at most `span` frames away."""
    return 1.0 - abs(distance) / (span + 1)


def _without_pixels(frame: _Analyzed) -> _Analyzed:
    return replace(frame, pixels=None, source=None, noise=None)


def _without_restored_pixels(frame: _Restored) -> _Restored:
    return replace(frame, pixels=None)
