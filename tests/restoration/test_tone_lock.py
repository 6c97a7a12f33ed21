"""A locked image keeps its tone, at every size, without seams, and whatever noise was clipped."""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cards import GUIDED
from support.identity import IDENTITY_CARD, IdentityRestorer

from varfix.engine.evaluation.metrics import psnr
from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.prior_maps import changes_tone
from varfix.engine.restoration.restore_image import restore_and_measure, restore_image
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.restoration.tone_lock import CELL, locks_tone, tone_shift
from varfix.engine.settings.types import ModelSettings, Settings, Strength, TileSettings

LOCKED = Settings(tile=TileSettings(tone_lock="always"))
FREE = Settings(tile=TileSettings(tone_lock="never"))


class Drifting(IdentityRestorer):
    """Blurs, and moves the tone of each tile by what the tile shows."""

    def restore(self, tiles, prior):
        drift = 0.2 * (tiles.mean((1, 2), keepdims=True) - 0.3)
        blurred = np.stack([cv2.blur(tile, (3, 3)) for tile in tiles])
        return RestoredTiles(np.clip(blurred + drift, 0.0, 1.0).astype(np.float32))


class Oracle(IdentityRestorer):
    """Returns the true image, whatever it is shown, 0.02 too light."""

    truth: np.ndarray

    def restore(self, tiles, prior):
        restored = np.clip(self.truth + np.float32(0.02), 0.0, 1.0)
        return RestoredTiles(np.stack([restored] * len(tiles)))


def image(height=150, width=210, seed=0):
    """Values far from black and white, so that nothing is clipped."""
    coarse = np.random.default_rng(seed).random((5, 7, 3), np.float32)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    fine = np.random.default_rng(seed + 1).random((height, width, 3), np.float32)
    return (0.3 + 0.3 * smooth.reshape(height, width, 3) + 0.1 * fine).astype(np.float32)


def block_means(pixels, side=CELL):
    height, width = (length // side * side for length in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // side, side, width // side, side, 3)
    return blocks.mean((1, 3))


def test_a_locked_image_keeps_its_means():
    pixels = image(160, 224)
    free = block_means(restore_image(Drifting(), pixels, FREE) - pixels)
    locked = block_means(restore_image(Drifting(), pixels, LOCKED) - pixels)
    assert np.abs(free).mean() > 4 / 255
    assert np.abs(locked).mean() < 0.3 / 255
    assert abs(locked.mean()) < 0.02 / 255


def test_detail_of_the_restoration_stays():
    pixels = image()
    free, locked = (restore_image(Drifting(), pixels, lock) for lock in (FREE, LOCKED))

    def detail(picture):
        return picture - cv2.GaussianBlur(picture, (0, 0), 3)

    inner = (slice(12, -12), slice(12, -12))
    np.testing.assert_allclose(detail(locked)[inner], detail(free)[inner], atol=0.004)
    assert np.abs(detail(pixels) - detail(free)).max() > 0.02


def test_the_lock_makes_no_seams():
    """What is subtracted changes by less from pixel to pixel than any eye can see."""
    pixels = image()
    removed = restore_image(Drifting(), pixels, FREE) - restore_image(Drifting(), pixels, LOCKED)
    for axis in (0, 1):
        assert np.abs(np.diff(removed, axis=axis)).max() < 0.8 / 255


@pytest.mark.parametrize("lock", [FREE, LOCKED])
@given(st.integers(1, 200), st.integers(1, 90), st.sampled_from([1, 3]))
def test_the_identity_returns_the_image_bit_for_bit(lock, height, width, seed):
    pixels = np.random.default_rng(seed).random((height, width, 3), np.float32)
    pixels[pixels < 0.2] = 0.0
    pixels[pixels > 0.9] = 1.0
    assert np.array_equal(restore_image(IdentityRestorer(), pixels, lock), pixels)


@given(st.integers(1, 200), st.integers(1, 90), st.sampled_from([1, 50]))
def test_a_source_that_is_spent_becomes_the_same_result(height, width, batch):
    restorer, pixels = Drifting(batch=batch), image(height, width)
    wanted = restore_image(restorer, pixels, LOCKED)
    spent = pixels.copy()
    assert restore_image(restorer, spent, LOCKED, overwrite_input=True) is spent
    assert np.array_equal(spent, wanted)


@pytest.mark.parametrize("strength", [0.4, Strength(luma=0.3, chroma=0.9)])
def test_the_lock_and_the_strength_commute(strength):
    pixels = image()
    locked = restore_image(Drifting(), pixels, LOCKED)
    some = Settings(tile=LOCKED.tile, strength=strength)
    change = locked - pixels
    luma = (change @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    parts = some.strengths
    expected = pixels + parts.luma * luma + parts.chroma * (change - luma)
    np.testing.assert_allclose(restore_image(Drifting(), pixels, some), expected, atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.04, 0.5, 1.0])
def test_clipped_noise_is_no_tone(level):
    """Clipping lifted black: removing the noise must bring it back, not keep the gray."""
    side, sigma = 64, 50 / 255
    truth = np.full((side, side, 3), level, np.float32)
    noise = np.random.default_rng(3).normal(0.0, sigma, truth.shape)
    source = np.clip(truth + noise, 0.0, 1.0).astype(np.float32)
    restorer = Oracle()
    restorer.truth = truth
    locked = restore_image(restorer, source, settings("noise"))
    moved = float(abs(source.mean() - level))
    assert abs(locked.mean() - level) < max(0.01, 0.35 * moved)
    assert moved > 0.03 or level == 0.5


@pytest.mark.parametrize("level", [0.0, 0.04, 0.5, 1.0])
def test_always_keeps_the_means_of_clipped_noise_too(level):
    noise = np.random.default_rng(3).normal(0.0, 50 / 255, (160, 224, 3))
    source = np.clip(level + noise, 0.0, 1.0).astype(np.float32)
    restorer = Oracle()
    restorer.truth = np.full((64, 64, 3), level, np.float32)  # every tile
    locked = restore_and_measure(restorer, source, LOCKED)
    shifts = np.abs(block_means(locked.pixels) - block_means(source))
    assert shifts.mean() < 0.3 / 255
    assert tone_shift(locked.tone_change, LOCKED.strengths) < 0.3 / 255


def test_models_that_see_one_tile_are_locked_too():
    card = ModelCard(name="t", licence="CC0-1.0", tile=64, multiple=1, overlap=16, guidance="tile")
    pixels = image(160, 224)
    for whole in (False, True):
        tile = TileSettings(tone_lock="always", resize_whole=whole)
        locked = restore_image(Drifting(card=card), pixels, Settings(tile=tile))
        assert np.abs(block_means(locked - pixels)).mean() < 0.4 / 255


def settings(task, lock="auto"):
    return Settings(model=ModelSettings(task=task), tile=TileSettings(tone_lock=lock))


def test_presets_for_detail_are_locked_and_others_are_not():
    tasks = ("noise", "blur", "rain", "haze", "lowlight", "snow")
    locked = [task for task in tasks if locks_tone(settings(task), IDENTITY_CARD, None)]
    assert locked == ["noise", "blur"]
    assert locks_tone(settings("haze", "always"), IDENTITY_CARD, None)
    assert not locks_tone(settings("noise", "never"), IDENTITY_CARD, None)


def test_under_auto_the_prior_says_whether_tone_is_treated():
    maps = np.ones((422, 16, 16), np.float32)
    maps[320:416] = 0.0  # the tone grid
    assert locks_tone(settings("auto"), GUIDED, maps)
    maps[340, 5, 5] = 0.01
    assert not locks_tone(settings("auto"), GUIDED, maps)
    assert changes_tone(np.zeros((2, 16, 16), np.float32)), "a prior of another structure"


def test_a_model_without_prior_is_locked_if_it_was_trained_for_detail_only():
    denoiser = ModelCard(
        name="d", licence="CC0-1.0", tile=64, multiple=1, overlap=16, tasks=("noise",)
    )
    assert locks_tone(settings("auto"), denoiser, None)
    assert not locks_tone(settings("auto"), IDENTITY_CARD, None)


def test_the_shift_of_tone_is_measured_as_it_is():
    pixels = image(160, 224)
    for lock in (FREE, LOCKED):
        for strength in (1.0, Strength(luma=0.5, chroma=0.0)):
            some = Settings(tile=lock.tile, strength=strength)
            restored = restore_and_measure(Drifting(), pixels, some)
            measured = np.abs(block_means(restored.pixels - pixels)).mean()
            shift = tone_shift(restored.tone_change, some.strengths)
            assert shift == pytest.approx(measured, rel=0.05, abs=1e-5)


def test_at_strength_zero_nothing_moves():
    restored = restore_and_measure(Drifting(), image(), Settings(strength=0.0))
    assert tone_shift(restored.tone_change, Strength(luma=0.0, chroma=0.0)) == 0.0


def test_the_lock_needs_no_second_image():
    pixels = image(1400, 900)

    def peak(lock):
        spent = pixels.copy()
        tracemalloc.start()
        try:
            restore_image(Drifting(batch=1), spent, lock, overwrite_input=True)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(LOCKED)  # what is made once
    assert peak(LOCKED) < peak(FREE) + pixels.nbytes / 20


def test_noise_is_removed_as_well_with_the_lock():
    truth = image(128, 192)
    noisy = (truth + np.random.default_rng(5).normal(0, 0.05, truth.shape)).astype(np.float32)
    free, locked = (restore_image(Drifting(), noisy, lock) for lock in (FREE, LOCKED))
    assert psnr(locked, truth) > psnr(free, truth)
