"""The scenes that the judge learns from hold what they promise."""

import math

import numpy as np
import pytest
import torch

from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.train.data.photos import Photos
from varfix.engine.train.scenes.camera import (
    MIDDLE,
    beyond,
    developed,
    encoded,
    fused,
    good_gain,
    luma_of,
    under_exposed,
)
from varfix.engine.train.scenes.examples import DARK_CHANNEL, PLAIN, Scenes, make_example
from varfix.engine.train.scenes.haze import haze
from varfix.engine.train.scenes.panoramas import Panoramas, load_panoramas, places
from varfix.engine.train.scenes.patterns import PATTERNS, render_pattern
from varfix.engine.train.scenes.rooms import render_room

SIDE = 96


def dice(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def light():
    """A dim room with a bright window: a thousand to one."""
    room = np.full((SIDE, SIDE, 3), 0.02, np.float32)
    room += 0.01 * np.random.default_rng(0).random(room.shape).astype(np.float32)
    room[10:40, 10:40] = 20.0
    return room


@pytest.fixture(scope="module")
def panorama():
    """Light whose column and row can be read from its colors."""
    rows, columns = np.mgrid[:64, :128].astype(np.float32)
    return np.stack([columns / 128.0, rows / 64.0, np.full_like(rows, 0.5)], -1) + 0.01


@pytest.fixture(scope="module")
def scenes(panorama):
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (280, 300, 3), dtype=np.uint8) for _ in range(3)]
    return Scenes(Photos(photos), Panoramas([panorama]))


def test_a_good_gain_brings_the_logarithmic_mean_to_middle_gray(light):
    exposed = luma_of(light * good_gain(light))
    assert np.exp(np.log(exposed).mean()) == pytest.approx(MIDDLE, rel=0.2)
    assert good_gain(2.0 * light) == pytest.approx(good_gain(light) / 2.0, rel=1e-3)


def test_a_short_exposure_is_darker_than_a_good_one_and_fusion_lifts_the_shadows(light):
    gain = good_gain(light)
    good = encoded(light * np.float32(gain))
    short = under_exposed(light, gain, dice())
    both = fused(light, gain)
    assert short.mean() < good.mean() - 0.1
    assert luma_of(both)[60:, 60:].mean() > 3.0 * luma_of(short)[60:, 60:].mean()


def test_a_camera_file_is_black_where_it_is_dark(light):
    image = developed(light * np.float32(good_gain(light)), dice())
    assert np.quantile(image, 0.01) < 0.05
    assert image.max() > 0.95


def test_light_beyond_an_image_agrees_with_it_where_nothing_is_bright():
    image = np.full((SIDE, SIDE, 3), 0.4, np.float32)
    np.testing.assert_allclose(beyond(image, dice()), 0.4**2.2, rtol=0.02)


def test_rays_of_a_camera_meet_the_sphere_where_it_looks():
    for yaw, column in ((0.0, 0.5), (math.pi / 2, 0.75), (-math.pi / 2, 0.25)):
        rows, columns = places(33, (yaw, 0.0, math.pi / 2, 1.0))
        assert columns[16, 16] == pytest.approx(column, abs=1e-6)
        assert rows[16, 16] == pytest.approx(0.5, abs=1e-6)
        assert rows[0, 16] < rows[-1, 16]  # upwards is up
        assert (columns[16, 20] - columns[16, 12]) % 1.0 < 0.5  # to the right is right
    up, _ = places(33, (0.0, 0.5, math.pi / 2, 1.0))
    assert up[16, 16] == pytest.approx(0.5 - 0.5 / math.pi, abs=1e-6)


def test_panoramas_are_found_by_their_suffix_and_read_as_light(tmp_path, panorama):
    import cv2

    assert cv2.imwrite(str(tmp_path / "one.hdr"), 9.0 * panorama[..., ::-1])
    (tmp_path / "other.txt").write_text("no panorama")
    (found,) = load_panoramas([tmp_path]).panoramas
    np.testing.assert_allclose(found, 9.0 * panorama, rtol=0.02, atol=0.07)


def test_a_room_is_as_deep_as_it_is_and_its_window_the_brightest():
    image = np.full((8, 8, 3), 128, np.uint8)
    for seed in range(4):
        light, depth = render_room(SIDE, [image], dice(seed))
        assert light.shape == (SIDE, SIDE, 3)
        assert 0.0 < depth.min() < depth.max() < 15.0
        assert (light >= 0.0).all()
        again, _ = render_room(SIDE, [image], dice(seed))
        np.testing.assert_array_equal(light, again)


def test_every_pattern_is_a_good_image_and_not_flat():
    ground = np.random.default_rng(0).random((SIDE, SIDE, 3)).astype(np.float32)
    for pattern in dict.fromkeys(PATTERNS):
        drawn = np.clip(pattern(ground, dice(1)), 0.0, 1.0)
        assert drawn.shape == ground.shape
        assert drawn.std() > 0.005, pattern.__name__
    assert render_pattern(ground, dice()).dtype == np.float32


def test_haze_is_thicker_where_it_is_farther():
    clean = torch.full((2, 3, 32, 32), 0.1)
    depth = torch.linspace(0.1, 2.0, 32).expand(2, 1, 32, 32)
    for seed in range(5):
        hazy = haze(clean, dice(seed), depth)
        assert (hazy.mean(1)[:, :, -1] >= hazy.mean(1)[:, :, 0]).all()
        assert hazy.min() >= 0.1 - 1e-5
        assert hazy.max() <= 1.0


@pytest.mark.parametrize("name", ["haze", "lowlight", "rain", "camera", "haze+noise", "blur"])
def test_an_example_says_what_was_done_to_it(scenes, name):
    kinds = {"camera": "noise"}
    wanted = {kinds.get(step, step) for step in name.split("+")}
    for seed in range(3):
        example = make_example(scenes, name, SIDE, dice(seed))
        assert {kind for kind, on in zip(KINDS, example.applied, strict=True) if on} == wanted
        for kind in wanted:
            place = KINDS.index(kind)
            plain = example.strength[place] >= PLAIN[kind]
            assert example.present[place] == (1.0 if plain else -1.0)
        assert 0.0 <= example.image.min() <= example.image.max() <= 1.0


def test_a_good_image_stays_what_it_is_but_for_its_file(scenes):
    for seed in range(8):
        example = make_example(scenes, "identity", SIDE, dice(seed))
        assert not example.applied.any()
        assert not (example.present > 0.0).any()
        assert np.abs(example.image - example.target).mean() < 0.25  # noise after a poor JPEG


def test_haze_is_laid_over_images_that_hold_something_dark():
    pale = np.full((280, 300, 3), 230, np.uint8)
    dark = pale.copy()
    dark[:, ::3] = 0
    dark = dark.reshape(280, 100, 3, 3).transpose(0, 2, 1, 3).reshape(280, 300, 3).copy()
    only_photos = Scenes(Photos([pale, dark]), Panoramas([]))
    kept = [only_photos._photo(SIDE, "haze", dice(seed)).min() for seed in range(20)]
    assert np.mean([least < DARK_CHANNEL for least in kept]) > 0.8
