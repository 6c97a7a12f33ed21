"""Noise goes where frames agree; what moves, changes or has no noise stays as it was."""

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from support.flicker import noisy, run, same
from support.identity import IdentityRestorer

from varfix.engine.evaluation.metrics import psnr
from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.settings.types import ModelSettings, Settings
from varfix.engine.video.deflicker import DeflickerSettings, deflicker, temporal_context
from varfix.engine.video.denoise.clipped_noise import clipping_error
from varfix.engine.video.denoise.frame_motion import find_shift, shifted
from varfix.engine.video.denoise.temporal_average import average_over_time
from varfix.engine.video.frame_pipeline import deflicker_settings

SIGMA = 25 / 255
DENOISER = ModelCard(
    name="denoiser", licence="CC0-1.0", tile=64, multiple=1, overlap=16, tasks=("noise",)
)
STEADY = DeflickerSettings(denoise_window=3)


def texture(seed=1, shape=(96, 128)):
    """Detail of all sizes, far from black and white."""
    rng, image = np.random.default_rng(seed), np.zeros((*shape, 3), np.float32)
    for cells in (3, 6, 12, 24, 48):
        coarse = rng.normal(0, 1, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return (0.5 + 0.3 * image / np.abs(image).max()).astype(np.float32)


def averaged(clip, window=3):
    return [frame.pixels for frame in average_over_time(enumerate(clip), window)]


def gain(clip, clean, at=4, part=(slice(None), slice(None))):
    """Decibels that averaging gains in a part of one frame."""
    before, after = clip[at], averaged(clip)[at]
    return psnr(after[part], clean[at][part]) - psnr(before[part], clean[at][part])


def test_a_still_loses_its_noise_and_keeps_its_detail():
    clean = [texture()] * 9
    # Seven frames have a seventh of the variance: 8.45 dB.
    assert 7.0 < gain(noisy(clean, SIGMA), clean) < 8.7


@pytest.mark.parametrize("pace", [(2.0, 0.0), (-3.0, 1.0), (1.3, 0.4)])
def test_a_pan_is_followed(pace):
    wide = texture(2, (160, 240))
    clean = [shifted(wide, (pace[0] * at, pace[1] * at))[32:128, 56:184].copy() for at in range(9)]
    assert gain(noisy(clean, SIGMA), clean, part=(slice(8, -8), slice(16, -16))) > 5.0


def test_an_object_that_moves_leaves_no_ghost():
    clean = []
    for at in range(9):
        frame = texture().copy()
        frame[32:64, 8 + 8 * at : 40 + 8 * at] = texture(7)[:32, :32] - 0.15
        clean.append(frame)
    clip = noisy(clean, SIGMA)
    mean = np.mean([averaged(noisy(clean, SIGMA, first=9 * seed))[4] for seed in range(6)], axis=0)
    ghost = cv2.blur(mean - clean[4], (5, 5))
    blurred_noise = SIGMA / 5 / np.sqrt(6)
    assert np.abs(ghost[24:72]).max() < 5.5 * blurred_noise
    assert gain(clip, clean) > 3.0


def test_a_cut_is_not_crossed():
    clean = [texture()] * 5 + [texture(9)] * 5
    clip = noisy(clean, SIGMA)
    for at in (3, 4, 5, 6):
        assert gain(clip, clean, at) > 3.0


def test_a_fade_is_neither_delayed_nor_mixed():
    clean = [texture() * (1 - 0.06 * at) for at in range(9)]
    levels = [frame.mean() for frame in averaged(noisy(clean, SIGMA))]
    np.testing.assert_allclose(levels, [frame.mean() for frame in clean], atol=0.002)


def test_clean_frames_are_the_same_objects():
    smooth = cv2.blur(texture(), (15, 15))
    clip = [smooth, smooth * np.float32(0.9), texture(3), texture(3), smooth]
    assert all(result is frame for result, frame in zip(averaged(clip), clip, strict=True))
    noise = noisy(clip, SIGMA)
    assert all(result is frame for result, frame in zip(averaged(noise, 0), noise, strict=True))


def test_the_source_is_never_changed():
    clip = noisy([texture()] * 7, SIGMA)
    before = [frame.copy() for frame in clip]
    for frame in clip:
        frame.flags.writeable = False
    averaged(clip)
    assert same(clip, before)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 130), (37, 53)])
def test_small_and_odd_frames_pass(shape):
    clip = noisy([texture(1, shape)] * 5, SIGMA)
    for frame in averaged(clip):
        assert frame.shape == (*shape, 3)
        assert frame.dtype == np.float32
        assert np.isfinite(frame).all()


@pytest.mark.parametrize("level", [0.0, 0.02, 0.1, 0.5, 0.98, 1.0])
def test_clipped_noise_is_corrected(level):
    clean = [np.full((64, 96, 3), level, np.float32)] * 9
    clean = [frame + 0.4 * (np.arange(96) >= 48)[None, :, None] for frame in clean]
    clean = [np.where(frame > 1, 0.5, frame).astype(np.float32) for frame in clean]
    clip = noisy(clean, SIGMA)
    part = slice(8, -8), slice(8, 40)
    off = abs(float((averaged(clip)[4] - clean[4])[part].mean()))
    assert off < max(0.35 * abs(float((clip[4] - clean[4])[part].mean())), 0.004)


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.0, 2.0, 6.0])
def test_the_error_of_a_clipped_mean_is_that_of_clipped_normal_noise(distance):
    samples = np.maximum(np.random.default_rng(1).normal(distance, 1.0, 400_000), 0.0) / 20
    mean = np.full((1, 1, 3), samples.mean(), np.float32)
    deviation = np.full((1, 1), samples.std(), np.float32)
    expected = samples.mean() - distance / 20
    assert clipping_error(mean, deviation)[0, 0, 0] == pytest.approx(expected, abs=6e-4)
    assert clipping_error(1.0 - mean, deviation)[0, 0, 0] == pytest.approx(-expected, abs=6e-4)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (5.0, -3.0), (0.6, 0.3), (-11.5, 4.0)])
def test_the_motion_of_the_whole_image_is_found_in_noise(shift):
    wide = texture(4, (160, 240))
    first = wide[32:128, 56:184].mean(-1)
    # after(x + v) = before(x): the content moves by v.
    second = shifted(wide, (-shift[0], -shift[1]))[32:128, 56:184].mean(-1)
    rng = np.random.default_rng(2)
    frames = [
        (frame + rng.normal(0, SIGMA / 2, frame.shape)).astype(np.float32)
        for frame in (first, second)
    ]
    assert find_shift(*frames) == pytest.approx(shift, abs=0.2)


def test_an_image_without_detail_does_not_move():
    flat = np.full((64, 64), 0.5, np.float32)
    assert find_shift(flat, flat) == (0.0, 0.0)


class Smoothing(IdentityRestorer):
    """A denoiser that takes all detail for noise."""

    def restore(self, tiles, prior):
        return RestoredTiles(np.stack([cv2.blur(tile, (9, 9)) for tile in tiles]))


def test_detail_that_the_model_took_for_noise_comes_back():
    clean = [texture(5)] * 9
    clip = noisy(clean, SIGMA)
    restorer = Smoothing(card=DENOISER)
    alone = psnr(np.array(run(restorer, clip)[4]), clean[4])
    with_neighbors = psnr(np.array(run(restorer, clip, STEADY)[4]), clean[4])
    assert with_neighbors > alone + 3.0


def test_what_the_model_removes_from_clean_frames_does_not_come_back():
    clip = [texture(5)] * 9
    restorer = Smoothing(card=DENOISER)
    assert same(run(restorer, clip, STEADY), run(restorer, clip))


def test_models_and_tasks_that_are_not_about_noise_leave_it():
    clip = noisy([texture()] * 7, SIGMA)
    bare = IdentityRestorer()
    assert same(run(bare, clip, STEADY), clip)
    asked = Settings(model=ModelSettings(task="noise"))
    assert not same(run(bare, clip, STEADY, asked), clip)
    for task, window in (("auto", 3), ("noise", 3), ("haze,noise", 3), ("haze", 0), ("rain", 0)):
        settings = Settings(model=ModelSettings(task=task))
        assert deflicker_settings(settings).denoise_window == window


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_strength_blends_with_the_frame_itself(strength):
    clip = noisy([texture()] * 7, SIGMA)
    restorer = Smoothing(card=DENOISER)
    whole = run(restorer, clip, STEADY)
    some = run(restorer, clip, STEADY, Settings(strength=strength))
    expected = [frame + strength * (full - frame) for frame, full in zip(clip, whole, strict=True)]
    np.testing.assert_allclose(some, expected, atol=2e-3)


@examples(max_examples=15)
@given(st.integers(0, 4), st.integers(0, 2), st.booleans(), st.data())
def test_segments_computed_apart_fit_together_bit_for_bit(denoise, window, lock, data):
    small = (32, 44)
    clean = [np.roll(texture(1, small), at // 2, 1) for at in range(9)] + [texture(2, small)] * 6
    clip = noisy(clean, SIGMA)
    steady = DeflickerSettings(
        window=window, prior_interval=2, lowpass=lock, denoise_window=denoise
    )
    restorer, context = Smoothing(card=DENOISER), temporal_context(steady)
    bounds = sorted({0, *data.draw(st.lists(st.integers(0, 15), max_size=3)), 15})
    joined = []
    for start, stop in pairwise(bounds):
        frames = list(enumerate(clip))[max(0, start - context) : stop + context]
        found = deflicker(restorer, frames, range(start, stop), Settings(), steady)
        joined += [pixels for _, pixels in found]
    assert same(joined, run(restorer, clip, steady))
