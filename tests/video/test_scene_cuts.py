"""A cut is found, and nothing else is taken for one."""

import cv2
import numpy as np
import pytest

from varfix.engine.video.scene_cuts import REACH, SIDE, is_cut


def scene(seed, light=1.0):
    """A smooth image, unlike that of any other seed."""
    coarse = np.random.default_rng(seed).random((4, 6, 3), np.float32)
    return light * np.clip(cv2.resize(coarse, (96, 64), interpolation=cv2.INTER_CUBIC), 0, 1)


def small(image):
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)


def noisy(clip, sigma=0.1):
    rng = np.random.default_rng(0)
    return [np.clip(frame + rng.normal(0, sigma, frame.shape), 0, 1) for frame in clip]


def cuts(clip):
    looks = [small(np.asarray(frame, np.float32)) for frame in clip]
    return [
        at
        for at in range(len(looks) + 1)
        if is_cut(looks[max(0, at - REACH) : at], looks[at : at + REACH])
    ]


def panning(seed, speed, count=12):
    wide = cv2.resize(np.random.default_rng(seed).random((4, 24, 3), np.float32), (600, 64))
    return [wide[:, speed * at : speed * at + 96] for at in range(count)]


def fading(first, last, steps):
    return [first + (last - first) * (at / steps) for at in range(steps + 1)]


A, B, C = scene(1), scene(2), scene(3)
BLACK, WHITE = np.zeros_like(A), np.ones_like(A)


@pytest.mark.parametrize(
    ("clip", "where"),
    [
        ([A] * 6 + [B] * 6, [6]),
        ([A] * 5 + [B] * 4 + [C] * 5, [5, 9]),
        ([A, B], [1]),
        ([A] * 5 + [B], [5]),
        ([A] + [B] * 5, [1]),
        ([scene(1, 0.2)] * 6 + [scene(2, 0.2)] * 6, [6]),
        ([A] * 6 + [BLACK] * 6, [6]),
    ],
    ids=["one", "two", "of two frames", "last frame", "first frame", "in the dark", "to black"],
)
def test_a_hard_cut_is_found_in_its_place(clip, where):
    assert cuts(clip) == where


def test_noise_hides_no_cut():
    assert cuts(noisy([A] * 6 + [B] * 6)) == [6]


@pytest.mark.parametrize("speed", [2, 4, 8])
def test_a_cut_between_pans_is_found(speed):
    assert cuts(panning(4, speed) + panning(5, speed)) == [12]


@pytest.mark.parametrize("speed", [1, 2, 8, 20])
def test_a_pan_is_no_cut(speed):
    assert cuts(panning(4, speed)) == []


def test_a_still_is_no_cut_however_noisy():
    assert cuts([A] * 12) == []
    assert cuts(noisy([A] * 12, 0.3)) == []


@pytest.mark.parametrize("steps", [4, 8, 25])
@pytest.mark.parametrize(("first", "last"), [(A, BLACK), (WHITE, A), (A, B)])
def test_a_fade_is_no_cut(first, last, steps):
    assert cuts([first] * 6 + fading(first, last, steps) + [last] * 6) == []


@pytest.mark.parametrize("length", [1, 2])
@pytest.mark.parametrize("light", [WHITE, 0.4 * A + 0.6, BLACK], ids=["white", "bright", "black"])
def test_a_flash_is_no_cut(light, length):
    assert cuts([A] * 6 + [light] * length + [A] * 6) == []
    assert cuts(noisy([A] * 6 + [light] * length + [A] * 6, 0.03)) == []


def test_light_that_blinks_is_no_cut():
    assert cuts([A, 0.5 * A] * 6) == []
    assert cuts([A, A, 0.5 * A, 0.5 * A] * 4) == []


def test_a_flash_does_not_hide_the_cut_next_to_it():
    assert 6 in cuts([A] * 6 + [WHITE] + [B] * 6)
    assert cuts([A] * 4 + [WHITE] + [A] + [B] * 6) == [6]
    assert cuts([A] * 4 + [WHITE] + [A] * 2 + [B] * 6) == [7]


def test_an_object_that_moves_through_the_image_is_no_cut():
    clip = [A.copy() for _ in range(10)]
    for at, frame in enumerate(clip):
        frame[20:45, 6 * at : 6 * at + 25] = 1.0
    assert cuts(clip) == []


def test_before_the_first_and_after_the_last_frame_there_is_no_cut():
    assert not is_cut([], [small(A)])
    assert not is_cut([small(A)], [])
