"""Videos do not flicker after restoration, without lag and without smear."""

from dataclasses import dataclass

import cv2
import numpy as np
from support.cards import GUIDED
from support.flicker import ALONE, Pumping, noisy, run, scene
from support.identity import IdentityRestorer

from varfix.engine.evaluation.metrics import psnr
from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.settings.types import Settings
from varfix.engine.video.deflicker import DeflickerSettings
from varfix.engine.video.low_frequency import CELL
from varfix.onnx.inference.open_model import open_restorer

PRIOR_ONLY = DeflickerSettings(lowpass=False)


@dataclass
class Levelling(IdentityRestorer):
    """Brings every image's mean to a middle gray, as a prior that sees the whole of it can."""

    card: ModelCard = GUIDED

    def prior(self, prior_input):
        return np.full((2, 16, 16), 0.5 - prior_input.thumbnail.mean(), np.float32)

    def restore(self, tiles, prior):
        return RestoredTiles(tiles + prior[:, 0].mean((1, 2))[:, None, None, None])


def flicker(restored, clean):
    """Mean absolute difference of the change from frame to frame to that of the clean clip."""
    return np.mean(np.abs(np.diff(restored, axis=0) - np.diff(clean, axis=0)))


def coarse(clip):
    """Means over squares of 12 pixels."""
    return [
        cv2.resize(frame, None, fx=1 / 12, fy=1 / 12, interpolation=cv2.INTER_AREA)
        for frame in clip
    ]


def test_tone_that_flickers_because_of_the_prior_is_deflickered():
    clean = [scene(1)] * 16
    clip = noisy(clean, 0.02)
    before = flicker(run(Pumping(), clip, ALONE), clean)
    assert flicker(run(Pumping(), clip, PRIOR_ONLY), clean) < before / 4
    assert flicker(run(Pumping(), clip), clean) < before / 4


def test_noise_too_coarse_for_the_model_is_locked():
    clean = [scene(1)] * 16
    clip = noisy(clean, 0.1)
    bare = Pumping(card=IdentityRestorer().card)
    alone, locked = run(bare, clip, ALONE), run(bare, clip)
    assert flicker(coarse(locked), coarse(clean)) < flicker(coarse(alone), coarse(clean)) / 2
    assert psnr(np.array(locked), np.array(clean)) > psnr(np.array(alone), np.array(clean)) + 0.5


def test_a_source_whose_tone_changes_is_followed():
    """A plain average of the priors would lag behind, and leave half of the change there."""
    light = 0.1 * np.sin(np.arange(16) * 2 * np.pi / 8)
    clip = noisy([scene(1) + level for level in light], 0.01)
    levels = [frame.mean() for frame in run(Levelling(), clip)]
    assert np.std([frame.mean() for frame in clip]) > 0.06
    assert np.std(levels) < 0.012


def test_what_moves_is_not_smeared():
    clean = []
    for at in range(12):
        frame = scene(1).copy()
        frame[12:24, 3 * at : 3 * at + 12] += 0.15
        clean.append(np.clip(frame, 0, 1))
    clip = noisy(clean, 0.03)
    bare = Pumping(card=IdentityRestorer().card)
    alone, locked = np.array(run(bare, clip, ALONE)), np.array(run(bare, clip))
    assert psnr(locked, np.array(clean)) > psnr(alone, np.array(clean))
    trail = np.abs(np.mean(locked - alone, axis=-1))
    cells = [
        cv2.resize(change, None, fx=1 / CELL, fy=1 / CELL, interpolation=cv2.INTER_AREA)
        for change in trail
    ]
    assert np.max(cells) < 0.03


def test_a_pan_gains_and_does_not_blur():
    wide = scene(1, (36, 200)) * (0.8 + 0.2 * np.random.default_rng(5).random((36, 200, 1)))
    clean = [wide[:, 2 * at : 2 * at + 52].astype(np.float32) for at in range(16)]
    clip = noisy(clean, 0.1)
    bare = Pumping(card=IdentityRestorer().card)
    alone, locked = run(bare, clip, ALONE), run(bare, clip)
    assert flicker(locked, clean) < flicker(alone, clean)
    assert psnr(np.array(locked), np.array(clean)) > psnr(np.array(alone), np.array(clean))


def test_the_shipped_model_flickers_less_with_the_filter():
    clean = [scene(1, (64, 96))] * 5
    clip = noisy(clean, 25 / 255)
    restorer = open_restorer("varformer-s", Settings(device="cpu"))
    alone, deflickered = run(restorer, clip, ALONE), run(restorer, clip)
    assert flicker(deflickered, clean) < flicker(alone, clean)
    assert flicker(coarse(deflickered), coarse(clean)) < flicker(coarse(alone), coarse(clean)) / 2
    assert psnr(np.array(deflickered), np.array(clean)) >= psnr(np.array(alone), np.array(clean))
