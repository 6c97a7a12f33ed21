"""What is measured, and against what."""

import math

import numpy as np
import pytest
from PIL import Image

from varfix.engine.errors import (
    ConfigError,
    DecodeEmptyError,
    ItemError,
    NothingToDoError,
    PlanError,
)
from varfix.engine.evaluation.metrics import Scores
from varfix.engine.evaluation.pairs import (
    Measured,
    Pair,
    find_images,
    find_pairs,
    mean,
    parse_degradation,
    score_degraded,
    score_files,
    score_restored,
)
from varfix.engine.evaluation.synthetic_damage import add_noise

LIMIT = 10**6


def save(path, value=128, size=(16, 12), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    channels = 3 if mode == "RGB" else 1
    samples = rng.integers(0, 256, (size[1], size[0], channels), np.uint8)
    Image.fromarray(samples.squeeze()).save(path)
    return path


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "restored", tmp_path / "target"


def same(pixels):
    return pixels


def names(pairing):
    return [(pair.name, pair.target.name) for pair in pairing.pairs]


def test_images_are_found_in_every_folder_and_sorted_as_text(tmp_path):
    for name in ("b.png", "10.png", "2.png", "sub/a.bmp", ".hidden/x.png", "notes.txt"):
        save(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("x")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["10.png", "2.png", "b.png", "sub/a.bmp"]


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_images_is_nothing_to_do(tmp_path, name):
    with pytest.raises(NothingToDoError):
        find_images(tmp_path / name)


def test_names_match_with_their_folders_and_without_their_extensions(folders):
    restored, target = folders
    for folder, extension in ((restored, ".png"), (target, ".bmp")):
        save(folder / f"a{extension}")
        save(folder / f"sub/a{extension}")
    assert names(find_pairs(restored, target)) == [("a.png", "a.bmp"), ("sub/a.png", "a.bmp")]


def test_a_name_made_unique_by_a_second_extension_finds_its_target(folders):
    restored, target = folders
    save(restored / "a.bmp.png")
    save(target / "a.bmp")
    assert names(find_pairs(restored, target)) == [("a.bmp.png", "a.bmp")]


def test_the_same_extension_decides_between_two_targets(folders):
    restored, target = folders
    save(restored / "a.png")
    save(target / "a.png")
    save(target / "a.bmp")
    assert names(find_pairs(restored, target)) == [("a.png", "a.png")]


def test_two_possible_targets_are_refused(folders):
    restored, target = folders
    save(restored / "a.tif")
    save(target / "a.png")
    save(target / "a.bmp")
    with pytest.raises(PlanError, match=r"more than one target.*a\.bmp, a\.png"):
        find_pairs(restored, target)


def test_an_image_without_target_is_refused_and_a_target_without_image_counted(folders):
    restored, target = folders
    save(restored / "a.png")
    save(target / "a.png")
    save(target / "b.png")
    assert find_pairs(restored, target).unused == 1
    save(restored / "c.png")
    with pytest.raises(PlanError, match=r"c\.png: no target"):
        find_pairs(restored, target)


def test_two_files_are_a_pair_whatever_their_names(tmp_path):
    pairing = find_pairs(save(tmp_path / "x.png"), save(tmp_path / "y.bmp"))
    assert names(pairing) == [("x.png", "y.bmp")]


def test_noise_depends_on_nothing_but_image_sigma_and_index():
    samples = np.full((64, 64, 3), 128, np.uint8)
    noisy = add_noise(samples, 25.0, 7)
    assert noisy.dtype == np.uint8
    assert np.array_equal(noisy, add_noise(samples, 25.0, 7))
    assert not np.array_equal(noisy, add_noise(samples, 25.0, 8))
    assert 24 < (noisy - 128.0).std() < 26
    # The published definition, written out.
    rng = np.random.Generator(np.random.PCG64(7))
    expected = np.clip(np.round(128 + rng.normal(0, 25, samples.shape)), 0, 255)
    assert np.array_equal(noisy, expected)


def test_noise_is_clipped_to_what_a_file_holds():
    assert add_noise(np.full((8, 8, 1), 250, np.uint8), 200.0, 1).max() == 255


@pytest.mark.parametrize("text", ["fog:1", "noise", "noise:", "noise:x", "noise:-1", "noise:nan"])
def test_a_degradation_that_makes_no_sense_is_refused(text):
    with pytest.raises(ConfigError, match="--degrade"):
        parse_degradation(text)


def test_equal_files_are_perfect(tmp_path):
    path = save(tmp_path / "a.png")
    (measured,) = score_files([Pair("a.png", path, path)], LIMIT)
    assert measured == Measured("a.png", Scores(math.inf, 1.0, math.inf, 1.0))
    assert measured.gain is None


def test_a_known_error_gives_the_known_psnr(tmp_path):
    for name, value in (("a.png", 100), ("b.png", 110)):
        Image.new("L", (16, 16), value).save(tmp_path / name)
    (measured,) = score_files([Pair("a", tmp_path / "a.png", tmp_path / "b.png")], LIMIT)
    assert measured.restored.psnr == pytest.approx(20 * math.log10(255 / 10), abs=1e-4)


def test_a_restoration_that_finds_the_target_gains_everything(folders):
    restored, target = folders
    truth = save(target / "a.png", 1)
    pair = Pair("a.png", save(restored / "a.png", 2), truth)
    pixels = np.asarray(Image.open(truth), np.float32) / np.float32(255)
    (measured,) = score_restored([pair], lambda _: pixels, LIMIT)
    assert measured.before.psnr < 10
    assert measured.restored.psnr == math.inf == measured.gain


def test_doing_nothing_gains_nothing(tmp_path):
    save(tmp_path / "a.png")
    for spec in ("noise:25", "noise:0"):
        (measured,) = score_degraded(tmp_path, parse_degradation(spec), same, LIMIT)
        assert measured.restored == measured.before
        assert measured.gain == 0.0


def test_what_a_file_cannot_hold_is_not_measured(tmp_path):
    save(tmp_path / "a.png")
    nearly = parse_degradation("noise:0")
    (measured,) = score_degraded(tmp_path, nearly, lambda pixels: pixels + 0.4 / 255, LIMIT)
    assert measured.restored.psnr == math.inf


def test_a_gray_image_gets_gray_noise(tmp_path):
    save(tmp_path / "a.png", mode="L")
    seen = []
    degrade = parse_degradation("noise:25")
    list(score_degraded(tmp_path, degrade, lambda pixels: seen.append(pixels) or pixels, LIMIT))
    assert seen[0].shape == (12, 16, 3)
    assert np.array_equal(seen[0][..., 0], seen[0][..., 2])


def test_each_image_gets_the_noise_of_its_place(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("L", (16, 16), 128).save(tmp_path / name)
    seen = []
    degrade = parse_degradation("noise:25")
    list(score_degraded(tmp_path, degrade, lambda pixels: seen.append(pixels) or pixels, LIMIT))
    assert not np.array_equal(*seen)


def test_sizes_that_differ_are_an_error_before_the_restoration(folders):
    restored, target = folders
    pair = Pair("a.png", save(restored / "a.png"), save(target / "a.png", size=(12, 16)))
    with pytest.raises(ItemError, match=r"a\.png: .*16 x 12 and 12 x 16"):
        list(score_restored([pair], pytest.fail, LIMIT))


def test_an_image_too_small_for_the_window_is_an_error(tmp_path):
    path = save(tmp_path / "a.png", size=(8, 8))
    with pytest.raises(ItemError, match=r"a\.png: SSIM"):
        list(score_files([Pair("a.png", path, path)], LIMIT))


def test_an_unreadable_image_ends_the_measurement_with_its_name(tmp_path):
    path = tmp_path / "a.png"
    path.touch()
    with pytest.raises(DecodeEmptyError, match=r"a\.png: empty file"):
        list(score_files([Pair("a.png", path, path)], LIMIT))


def test_the_mean_is_over_images():
    first = Measured("a", Scores(20.0, 0.5, 22.0, 0.6), Scores(10.0, 0.1, 12.0, 0.2))
    second = Measured("b", Scores(30.0, 0.7, 32.0, 0.8), Scores(20.0, 0.3, 22.0, 0.4))
    average = mean([first, second])
    assert average.restored == Scores(25.0, pytest.approx(0.6), 27.0, pytest.approx(0.7))
    assert average.gain == 10.0
