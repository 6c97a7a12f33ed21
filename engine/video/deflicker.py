"""A clip's frames, restored so that they do not flicker.

Frames restored one by one come back with different tone even where the clip stands still. Two
remedies, both within a scene:

* A frame goes by the priors of the key frames around it. How much each counts, and where in the
  image, depends on how much the frame looks like it: where the source's own tone changes, a
  plain average over time lags behind, and flickers more than none.
* The lock averages low frequencies after restoration (`varfix.engine.video.low_frequency`).

Everything depends on absolute frame numbers and on frames at most `temporal_context` away, so that
separately computed segments of a video fit together bit for bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, repeat
from typing import Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from varfix.engine.errors import NonFiniteError
from varfix.engine.restoration.prior_maps import thumbnail
from varfix.engine.restoration.restore_image import blend, restore_image
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.settings.types import Settings
from varfix.engine.video.low_frequency import (
    LowFrequencies,
    add,
    correction,
    low_frequencies,
    similarity,
)
from varfix.engine.video.scene_cuts import REACH, SIDE, is_cut

Floats = npt.NDArray[np.float32]
Frame = tuple[int, Floats]

TONE: Final = 0.02
"""Root mean square difference of places in two thumbnails that still look much alike."""

STRANGE: Final = 0.5
"""A frame that looks less than this like any key frame around it is a key frame for itself."""


@dataclass(frozen=True)
class DeflickerSettings:
    """How a clip is steadied.

    Attributes:
        window: frames on either side that a frame is steadied with; 0 restores each by itself.
        keys: a key frame, whose prior is computed, every so many frames.
        lock: whether low frequencies are averaged after restoration.
    """

    window: int = 4
    keys: int = 2
    lock: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing (ValueError)."""
        if self.window < 0 or self.keys < 1:
            raise ValueError("window must be at least 0, and keys at least 1")


def temporal_context(steady: DeflickerSettings) -> int:
    """Return how many frames before and after a segment its result depends on."""
    if steady.window == 0:
        return 0
    return steady.window * (2 if steady.lock else 1) + REACH - 1


def deflicker(
    restorer: Restorer,
    frames: Iterable[Frame],
    wanted: range,
    settings: Settings,
    steady: DeflickerSettings,
) -> Iterator[Frame]:
    """Restore frames of a clip.

    Holds some `2 * window + 5` frames at once, however long the clip.

    Args:
        restorer: the model.
        frames: numbers and pixels (H, W, 3) float32 in [0, 1], all of one size, in order and
            without gaps, from `temporal_context` frames before `wanted` (or the first frame) to
            `temporal_context` frames after it (or the last frame). Pixels are never changed.
        wanted: numbers of the frames to return, ascending by one.
        settings: strength, task and tiling.
        steady: window, key frames and lock.

    Yields:
        Number and pixels (H, W, 3) float32 in [0, 1] of each wanted frame, in order. At strength
        0, and from a model that changes nothing, these are the source's bit for bit.

    Raises:
        NonFiniteError: The model gives invalid values; the message names the frame.
        DeviceMemoryError: A single tile does not fit the device.
    """
    if settings.strength == 0.0:
        yield from ((index, pixels) for index, pixels in frames if index in wanted)
        return
    work = _Deflicker(restorer, settings, steady, wanted)
    yield from work.locked(work.restored(work.scenes(work.seen(frames))))


@dataclass(frozen=True)
class _Seen:
    """A frame that was read: what its neighbors need of it, and its pixels until restored.

    Attributes:
        index: its number in the clip.
        small: (SIDE, SIDE, 3).
        thumbnail: what the prior looks at; None for models without guidance by the image.
        pixels: None where they are not needed, or no more.
        scene: equal for frames of one scene.
    """

    index: int
    small: Floats
    thumbnail: Floats | None
    pixels: Floats | None
    scene: int = 0


@dataclass(frozen=True)
class _Restored:
    """A restored frame; its pixels where it is wanted, until it is handed over."""

    index: int
    scene: int
    pixels: Floats | None
    lows: LowFrequencies | None


class _Deflicker:
    """The stages, each a generator over the one before."""

    def __init__(
        self, restorer: Restorer, settings: Settings, steady: DeflickerSettings, wanted: range
    ) -> None:
        self._restorer = restorer
        self._strength = settings.strength
        self._full = msgspec.structs.replace(settings, strength=1.0)
        self._guided = restorer.card.guidance == "image"
        self._keys = steady.keys
        self._span = steady.window if self._guided else 0
        self._hold = steady.window if steady.lock else 0
        self._wanted = wanted
        self._needed = range(wanted.start - self._hold, wanted.stop + self._hold)
        self._priors: dict[int, Floats] = {}

    def seen(self, frames: Iterable[Frame]) -> Iterator[_Seen]:
        """Take the frames in."""
        for index, pixels in frames:
            look = thumbnail(pixels, self._restorer.card.thumbnail) if self._guided else None
            small = thumbnail(pixels if look is None else look, SIDE)
            yield _Seen(index, small, look, pixels if index in self._needed else None)

    def scenes(self, frames: Iterator[_Seen]) -> Iterator[_Seen]:
        """Number the scenes."""
        scene, reach = 0, REACH if self._span or self._hold else 0
        for past, now, ahead in windows(frames, reach, max(0, reach - 1), _bare_seen):
            scene += is_cut([one.small for one in past], [one.small for one in (now, *ahead)])
            yield replace(now, scene=scene)

    def restored(self, frames: Iterator[_Seen]) -> Iterator[_Restored]:
        """Restore each frame that a wanted one depends on."""
        for past, now, ahead in windows(frames, self._span, self._span, _bare_seen):
            if now.pixels is None:
                continue
            near = [one for one in (*past, now, *ahead) if one.scene == now.scene]
            try:
                yield self._restore(now, now.pixels, near)
            except NonFiniteError as error:
                message = f"frame {now.index}: {error.message}"
                raise NonFiniteError(message, hint=error.hint, tile=error.tile) from error

    def locked(self, frames: Iterator[_Restored]) -> Iterator[Frame]:
        """Steady the low frequencies of the wanted frames, and hand them over."""
        for past, now, ahead in windows(frames, self._hold, self._hold, _bare_restored):
            if now.pixels is None:
                continue
            if now.lows is not None:
                change = correction(now.lows, self._like(now, (*past, *ahead)))
                add(now.pixels, change * np.float32(self._strength))
            yield now.index, now.pixels
            if now.index + 1 == self._wanted.stop:
                return

    def _restore(self, now: _Seen, pixels: Floats, near: list[_Seen]) -> _Restored:
        maps = self._maps(now, near) if self._guided else None
        full = restore_image(self._restorer, pixels, self._full, maps=maps)
        lows = low_frequencies(pixels, full) if self._hold else None
        kept = blend(pixels, full, self._strength) if now.index in self._wanted else None
        return _Restored(now.index, now.scene, kept, lows)

    def _like(
        self, now: _Restored, others: Iterable[_Restored]
    ) -> Iterator[tuple[float, LowFrequencies]]:
        """Low frequencies of the frames of the same scene, with their weights by distance."""
        for other in others:
            if other.scene == now.scene and other.lows is not None:
                yield nearness(other.index - now.index, self._hold), other.lows

    def _maps(self, now: _Seen, near: list[_Seen]) -> Floats:
        """Average the priors (C, 16, 16) of the key frames near a frame of their scene."""
        keys = [one for one in near if one.index % self._keys == 0]
        alike = [similarity(now.small, key.small, TONE) for key in keys]
        if max((float(one.mean()) for one in alike), default=0.0) < STRANGE:
            keys.append(now)
            alike.append(np.ones((SIDE, SIDE), np.float32))
        self._forget(now.index - self._span)
        if len(keys) == 1:
            return self._prior(keys[0])
        weights = [
            one * np.float32(nearness(key.index - now.index, self._span))
            for one, key in zip(alike, keys, strict=True)
        ]
        maps = [self._prior(key) * one for one, key in zip(weights, keys, strict=True)]
        average: Floats = np.sum(maps, axis=0) / np.sum(weights, axis=0)
        return average

    def _prior(self, key: _Seen) -> Floats:
        """Look a key frame's prior up, once."""
        maps = self._priors.get(key.index)
        if maps is None:
            assert key.thumbnail is not None
            maps = self._restorer.prior(key.thumbnail, self._full.model.task)
            assert maps is not None
            self._priors[key.index] = maps
        return maps

    def _forget(self, before: int) -> None:
        for index in [index for index in self._priors if index < before]:
            del self._priors[index]


def nearness(distance: int, span: int) -> float:
    """Return the weight in (0, 1] of a frame that is at most `span` frames away."""
    return 1.0 - abs(distance) / (span + 1)


Item = TypeVar("Item", _Seen, _Restored)


def windows(
    items: Iterable[Item], before: int, after: int, bare: Callable[[Item], Item]
) -> Iterator[tuple[tuple[Item, ...], Item, tuple[Item, ...]]]:
    """Slide over a stream.

    Args:
        items: the stream.
        before: items to look back on; there are fewer at the beginning.
        after: items to look ahead to; there are fewer at the end.
        bare: makes of an item what is kept of it to look back on.

    Yields:
        The items before, the item, and the items after it.
    """
    past: deque[Item] = deque(maxlen=before)
    ahead: deque[Item | None] = deque()
    for item in chain(items, repeat(None, after)):
        ahead.append(item)
        if len(ahead) <= after:
            continue
        now = ahead.popleft()
        assert now is not None
        yield tuple(past), now, tuple(one for one in ahead if one is not None)
        past.append(bare(now))
        del now, item  # not held while the next item is made


def _bare_seen(frame: _Seen) -> _Seen:
    return replace(frame, pixels=None)


def _bare_restored(frame: _Restored) -> _Restored:
    return replace(frame, pixels=None)
