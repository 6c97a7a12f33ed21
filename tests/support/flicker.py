"""Clips that stand, and models that make them flicker."""

from dataclasses import dataclass, field

import cv2
import numpy as np
from support.cards import GUIDED
from support.identity import IdentityRestorer

from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.settings.types import Settings
from varfix.engine.video.deflicker import DeflickerSettings, deflicker

SHAPE = (36, 52)
ALONE = DeflickerSettings(window=0)


@dataclass
class Pumping(IdentityRestorer):
    """Blurs noise away, and adds a tone that hangs on the last bits of what it sees."""

    card: ModelCard = GUIDED
    amount: float = 0.1
    asked: list[float] = field(default_factory=list)

    def prior(self, prior_input):
        mean = float(prior_input.thumbnail.mean())
        self.asked.append(mean)
        jitter = np.sin(1e5 * mean)
        return np.full((2, 16, 16), self.amount * jitter, np.float32)

    def restore(self, tiles, prior):
        blurred = np.stack([cv2.blur(tile, (3, 3)) for tile in tiles])
        shift = prior[:, 0].mean((1, 2)) if prior is not None else np.zeros(len(tiles), np.float32)
        return RestoredTiles(np.clip(blurred + shift[:, None, None, None], 0, 1))


def scene(seed, shape=SHAPE):
    coarse = np.random.default_rng(seed).random((4, 6, 3), np.float32)
    image = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.clip(0.2 + 0.6 * image, 0, 1).astype(np.float32)


def noisy(clip, sigma=0.05, first=0):
    return [
        np.clip(
            frame + np.random.default_rng((first + at, 7)).normal(0, sigma, frame.shape), 0, 1
        ).astype(np.float32)
        for at, frame in enumerate(clip)
    ]


def run(restorer, clip, filter_settings=None, settings=None, first=0):
    """All frames of a clip whose first has that number."""
    frames = [(first + at, frame) for at, frame in enumerate(clip)]
    wanted = range(first, first + len(clip))
    found = list(
        deflicker(
            restorer,
            frames,
            wanted,
            settings or Settings(),
            filter_settings or DeflickerSettings(),
        )
    )
    assert [index for index, _ in found] == list(wanted)
    return [pixels for _, pixels in found]


def same(clip, other):
    return len(clip) == len(other) and all(
        np.array_equal(a.view(np.int32), b.view(np.int32)) for a, b in zip(clip, other, strict=True)
    )
