"""Videos are deflickered scene by scene, with equal results however they are divided."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from support.cards import GUIDED
from support.flicker import ALONE, SHAPE, Pumping, noisy, run, same, scene
from support.identity import IdentityRestorer

from varfix.engine.errors import NonFiniteError
from varfix.engine.restoration.restore_image import restore_and_measure, restore_image
from varfix.engine.restoration.strength import blend
from varfix.engine.settings.types import Settings, Strength
from varfix.engine.video import deflicker as module
from varfix.engine.video.deflicker import (
    DeflickerPorts,
    DeflickerSettings,
    deflicker,
    temporal_context,
)


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("card", [GUIDED, IdentityRestorer().card], ids=["guided", "bare"])
def test_a_model_that_changes_nothing_returns_the_source_bit_for_bit(card, strength):
    clip = noisy([scene(1)] * 7 + [scene(2)] * 5, 0.3)
    result = run(IdentityRestorer(card=card), clip, settings=Settings(strength=strength))
    assert same(result, clip)


def test_at_strength_zero_nothing_runs_and_the_frames_themselves_come_back():
    restorer, clip = Pumping(), noisy([scene(1)] * 5)
    result = run(restorer, clip, settings=Settings(strength=0.0))
    assert all(frame is source for frame, source in zip(result, clip, strict=True))
    assert restorer.asked == []


def test_strength_blends_the_source_with_the_deflickered_result():
    clip = noisy([scene(1)] * 9)
    whole = run(Pumping(), clip)
    half = run(Pumping(), clip, settings=Settings(strength=0.5))
    expected = [(frame + deflickered) / 2 for frame, deflickered in zip(clip, whole, strict=True)]
    np.testing.assert_allclose(half, expected, atol=1e-6)


def test_brightness_and_color_are_steadied_by_their_strengths():
    clip = noisy([scene(1)] * 9)
    whole = run(Pumping(), clip)
    settings = Settings(strength=Strength(luma=0.2, chroma=0.8))
    expected = [
        blend(frame, deflickered.copy(), settings.strengths)
        for frame, deflickered in zip(clip, whole, strict=True)
    ]
    np.testing.assert_allclose(run(Pumping(), clip, settings=settings), expected, atol=1e-6)


def test_the_shift_of_tone_of_each_wanted_frame_is_told():
    clip, shifts = noisy([scene(1)] * 9), []
    ports = DeflickerPorts(on_tone_shift=shifts.append)
    list(deflicker(Pumping(), enumerate(clip), range(3, 7), Settings(), DeflickerSettings(), ports))
    assert len(shifts) == 4
    assert all(0.0 < shift < 0.2 for shift in shifts)


def test_the_source_is_never_changed():
    clip = noisy([scene(1)] * 6)
    before = [frame.copy() for frame in clip]
    for frame in clip:
        frame.flags.writeable = False
    run(Pumping(), clip)
    assert same(clip, before)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (5, 130), SHAPE])
@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_short_clips_and_small_frames_come_back_whole(shape, count):
    clip = noisy([scene(1, shape)] * count)
    for frame in run(Pumping(), clip):
        assert frame.shape == (*shape, 3)
        assert frame.dtype == np.float32
        assert frame.min() >= 0.0
        assert frame.max() <= 1.0


def test_an_empty_clip_has_no_frames():
    assert run(Pumping(), []) == []


@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_without_a_window_each_frame_is_restored_alone(strength):
    settings = Settings(strength=strength)
    clip = noisy([scene(1)] * 4 + [scene(2)] * 3)
    expected = [restore_image(Pumping(), frame, settings) for frame in clip]
    assert same(run(Pumping(), clip, ALONE, settings), expected)
    assert temporal_context(ALONE) == 0


clips = st.lists(
    st.tuples(st.sampled_from(["scene", "flash", "fade"]), st.integers(1, 9)),
    min_size=1,
    max_size=5,
)
filters = st.builds(
    DeflickerSettings,
    window=st.integers(0, 5),
    prior_interval=st.integers(1, 6),
    lowpass=st.booleans(),
)


def clip_of(parts):
    frames = []
    for at, (kind, length) in enumerate(parts):
        light = {"scene": np.ones(length), "flash": np.full(length, 2.0)}.get(
            kind, np.linspace(1, 0, length)
        )
        frames += [np.clip(scene(at // 2) * level, 0, 1) for level in light]
    return noisy(frames, 0.02)


@examples(max_examples=40)
@given(clips, filters, st.integers(0, 9), st.data())
def test_segments_computed_apart_fit_together_bit_for_bit(parts, filter_settings, first, data):
    clip = clip_of(parts)
    end = first + len(clip)
    bounds = sorted({first, *data.draw(st.lists(st.integers(first, end), max_size=3)), end})
    joined = []
    for start, stop in pairwise(bounds):
        given_ = range(
            max(first, start - temporal_context(filter_settings)),
            min(end, stop + temporal_context(filter_settings)),
        )
        frames = ((index, clip[index - first]) for index in given_)
        found = deflicker(Pumping(), frames, range(start, stop), Settings(), filter_settings)
        joined += [pixels for _, pixels in found]
    assert same(joined, run(Pumping(), clip, filter_settings, first=first))


@pytest.mark.parametrize("lock", [False, True])
def test_the_result_does_not_depend_on_where_a_video_is_divided(lock):
    """What decides about a cut may lie at the far end of the context: try every place."""
    filter_settings = DeflickerSettings(window=2, prior_interval=1, lowpass=lock)
    flash = [scene(2) + 0.05]  # so faint that the frames about it go by each other's priors
    clip = [scene(1)] * 9 + [scene(2)] * 5 + flash * 2 + [scene(2)] * 6 + flash + [scene(2)] * 3
    clip = noisy(clip, 0.005)
    whole, ahead = run(Pumping(), clip, filter_settings), temporal_context(filter_settings)
    for at in range(len(clip)):
        part = list(enumerate(clip))[max(0, at - ahead) : at + ahead + 1]
        ((_, found),) = deflicker(Pumping(), part, range(at, at + 1), Settings(), filter_settings)
        assert same([found], [whole[at]])


def test_frames_before_the_lead_are_missed():
    """Otherwise the context would be longer than necessary, and segments would cost more."""
    filter_settings = DeflickerSettings(window=3, prior_interval=1)
    clip = noisy([scene(1)] * 30)
    whole = run(Pumping(), clip, filter_settings)
    short = list(enumerate(clip))[15 - 2 * filter_settings.window + 1 :]
    found = dict(deflicker(Pumping(), short, range(15, 30), Settings(), filter_settings))
    assert not same([found[15]], [whole[15]])


@pytest.mark.parametrize("prior_interval", [1, 2, 5])
def test_nothing_crosses_a_cut(prior_interval):
    filter_settings = DeflickerSettings(prior_interval=prior_interval)
    first_scene, second_scene = noisy([scene(1)] * 9), noisy([scene(2)] * 7, first=9)
    apart = run(Pumping(), first_scene, filter_settings) + run(
        Pumping(), second_scene, filter_settings, first=9
    )
    assert same(run(Pumping(), first_scene + second_scene, filter_settings), apart)


def test_frames_come_as_soon_as_their_neighbors_are_known():
    taken = []

    def frames():
        for index, frame in enumerate(noisy([scene(1)] * 60)):
            taken.append(index)
            yield index, frame

    filter_settings = DeflickerSettings()
    found = deflicker(Pumping(), frames(), range(40), Settings(), filter_settings)
    for index, _ in found:
        assert len(taken) <= index + temporal_context(filter_settings) + 1
    assert len(taken) == 40 + temporal_context(filter_settings)


def test_only_frames_that_count_are_restored(monkeypatch):
    clip, restored = noisy([scene(1)] * 60), []

    def watched(restorer, pixels, settings, maps):
        restored.append(next(at for at, frame in enumerate(clip) if frame is pixels))
        return restore_and_measure(restorer, pixels, settings, maps=maps)

    monkeypatch.setattr(module, "restore_and_measure", watched)
    filter_settings = DeflickerSettings()
    list(deflicker(Pumping(), enumerate(clip), range(20, 25), Settings(), filter_settings))
    assert restored == list(range(20 - filter_settings.window, 25 + filter_settings.window))


def test_memory_does_not_grow_with_the_clip():
    class Deep(Pumping):
        def prior(self, prior_input):
            return np.zeros((60, 16, 16), np.float32)

    shape, filter_settings = (200, 300), DeflickerSettings()
    clip = noisy([scene(1, shape)] * 2)

    def peak(count):
        def frames():
            yield from ((index, clip[index % 2].copy()) for index in range(count))

        tracemalloc.start()
        try:
            for _ in deflicker(Deep(), frames(), range(count), Settings(), filter_settings):
                pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    frame = clip[0].nbytes
    peak(3)  # what is made once
    assert peak(32) < peak(16) + frame / 2
    assert peak(16) < (2 * filter_settings.window + 12) * frame


def test_a_still_needs_the_prior_of_its_key_frames_only():
    for prior_interval in (1, 2, 3):
        restorer = Pumping()
        run(restorer, noisy([scene(1)] * 12), DeflickerSettings(prior_interval=prior_interval))
        assert len(restorer.asked) == 12 / prior_interval


def test_a_frame_unlike_its_key_frames_is_one_itself():
    clip = [scene(1)] * 12
    clip[5] = np.clip(clip[5] + 0.4, 0, 1)
    restorer = Pumping()
    run(restorer, clip, DeflickerSettings(prior_interval=2, lowpass=False))
    assert len(restorer.asked) == 7
    assert max(restorer.asked) == pytest.approx(clip[5].mean(), abs=0.01)


def test_a_scene_too_short_for_a_key_frame_has_priors_all_the_same():
    clip = noisy([scene(1)] * 6 + [scene(2)] * 3 + [scene(3)] * 6)
    filter_settings = DeflickerSettings(prior_interval=20, lowpass=False)
    assert same(run(Pumping(), clip, filter_settings)[6:9], run(Pumping(), clip, ALONE)[6:9])


def test_models_without_guidance_are_asked_for_no_prior():
    class Bare(Pumping):
        def prior(self, prior_input):
            raise AssertionError("asked for a prior")

    clip = noisy([scene(1)] * 8)
    run(Bare(card=IdentityRestorer().card), clip)


def test_invalid_values_name_the_frame():
    clip = noisy([scene(1)] * 8)
    clip[3][:] = 0.9

    class Broken(Pumping):
        def restore(self, tiles, prior):
            if tiles.min() > 0.85:
                raise NonFiniteError("tile 0 of this batch", tile=0)
            return super().restore(tiles, prior)

    with pytest.raises(NonFiniteError, match="frame 13: the model produced invalid values"):
        run(Broken(), clip, first=10)


@pytest.mark.parametrize("wrong", [{"window": -1}, {"prior_interval": 0}])
def test_settings_without_meaning_are_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        DeflickerSettings(**wrong)
