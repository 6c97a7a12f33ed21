"""The table of all test sets, and the fixed damage behind it."""

import hashlib
import io

import numpy as np
import pytest
from PIL import Image

from varfix.engine.errors import ConfigError, ItemError, NothingToDoError
from varfix.engine.evaluation.pairs import parse_degradation
from varfix.engine.evaluation.synthetic_damage import PROTOCOLS, convolve, damage
from varfix.engine.evaluation.test_sets import (
    BENCHMARKS,
    UNTOUCHED,
    BenchmarkFilter,
    heading,
    line,
    run_benchmarks,
)
from varfix.engine.models.card import TASKS

LIMIT = 10**6


def smooth(size=(64, 80), seed=0):
    """An image with tones and edges: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(20, 230, (6, 8, 3), np.uint8))
    image = np.array(small.resize(size[::-1], Image.Resampling.BICUBIC))
    image[20:40, 30:50] //= 2
    return image


@pytest.fixture
def val(tmp_path):
    """A folder of test sets: two clean images, and a set of two rainy pairs."""
    for number in range(2):
        clean = smooth(seed=number)
        rainy = np.clip(clean + 30.0, 0, 255).astype(np.uint8)
        for folder, image in (
            ("kodak24", clean),
            ("rain100h/input", rainy),
            ("rain100h/target", clean),
        ):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / folder / f"{number}.png")
    return tmp_path


def same(pixels, task):
    return pixels


def rows(val, restore=same, **choice):
    return {row.set: row for row in run_benchmarks(val, restore, BenchmarkFilter(**choice), LIMIT)}


def test_every_set_that_is_there_becomes_a_row(val):
    folders = {"kodak24", "rain100h"}
    assert list(rows(val)) == [
        benchmark.title for benchmark in BENCHMARKS if benchmark.folder in folders
    ]


def test_every_row_has_a_preset_but_the_one_where_nothing_is_wrong(val):
    for name, row in rows(val).items():
        assert (row.preset is None) == ("nothing" in name)
        assert row.task == "" or row.task in TASKS


def test_the_columns_are_restored_under_their_tasks(val):
    def only_with_its_preset(pixels, task):
        return pixels - np.float32(30 / 255) if task == "rain" else pixels

    row = rows(val, only_with_its_preset)["Rain100H, heavy rain"]
    assert row.auto == row.input
    assert row.preset.psnr > row.auto.psnr + 5
    assert row.worst == 0.0


def test_the_worst_change_of_any_image_under_any_preset_is_reported(val):
    seen = []

    def spoil_one(pixels, task):
        seen.append(task)
        return pixels if len(seen) > 1 else np.zeros_like(pixels)

    row = rows(val, spoil_one, only=["rain100h"])["Rain100H, heavy rain"]
    assert row.worst < -1.0
    assert seen == ["auto", "rain", "auto", "rain"]


def test_clean_images_have_no_input_score_and_unchanged_ones_count_as_sixty(val):
    row = rows(val)["Kodak24, nothing (a clean image)"]
    assert row.input is None
    assert row.worst is None
    assert row.auto.psnr == UNTOUCHED == 60.0
    assert line(row).startswith(
        "| Kodak24, nothing (a clean image) | 2 | ∞ | 60.00 |  | 1.0000 |  |"
    )


def test_the_table_is_markdown_with_as_many_cells_in_every_line(val):
    lines = [*heading().splitlines(), *map(line, rows(val).values())]
    assert len({text.count("|") for text in lines}) == 1
    cells = lines[2].split("|")
    assert 24 < float(cells[3]) < 25
    assert cells[3] == cells[4]
    assert cells[5] == " +0.00 "


def test_time_is_reported_per_megapixel(val):
    row = rows(val, only=["rain100h"])["Rain100H, heavy rain"]
    assert row.megapixels == pytest.approx(4 * 64 * 80 / 1e6)
    assert 0 <= row.cpu_seconds < 100
    assert 0 < row.seconds < 100


def test_a_sample_takes_images_evenly(val):
    assert rows(val, sample=1)["Kodak24, rain"].images == 1
    assert rows(val, sample=5)["Kodak24, rain"].images == 2


def test_unknown_sets_and_folders_without_any_are_refused(val, tmp_path):
    with pytest.raises(ConfigError, match='no test set "kodak25"'):
        rows(val, only=["kodak25"])
    with pytest.raises(NothingToDoError, match="no test sets"):
        rows(tmp_path / "kodak24")


def test_pairs_of_different_sizes_are_an_error_with_the_name(val):
    Image.fromarray(smooth((30, 30))).save(val / "rain100h/target/0.png")
    with pytest.raises(ItemError, match=r"0\.png: the images differ in size"):
        rows(val)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_damage_is_fixed_by_protocol_and_index(name):
    clean = smooth()
    once, again, other = damage(clean, name, 3), damage(clean, name, 3), damage(clean, name, 4)
    assert once.dtype == np.uint8
    assert np.array_equal(once, again)
    assert not np.array_equal(once, other)
    assert np.array_equal(parse_degradation(name)(clean, 3), once)


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("rain", "8932dbd53b3eb89e"),
        ("haze", "eba5b48c4edb2bb9"),
        ("lowlight", "da86c16d8cb86198"),
        ("blur", "1da7599cf9e28945"),
        ("snow", "6e7eadea550157dc"),
    ],
)
def test_damage_is_the_same_on_every_machine(name, digest):
    assert hashlib.sha256(damage(ramp(), name, 0).tobytes()).hexdigest()[:16] == digest


def ramp():
    """An image that no library had a hand in: (60, 72, 3) uint8."""
    y, x, c = np.mgrid[0:60, 0:72, 0:3]
    return ((y * 3 + x * 2 + c * 40 + (y // 20) * (x // 24) * 17) % 251).astype(np.uint8)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("rain", 12, 24), ("haze", 8, 18), ("lowlight", 6, 14), ("blur", 17, 34), ("snow", 14, 28)],
)
def test_damage_is_as_strong_as_the_real_sets_are(name, low, high):
    clean = smooth((128, 160))
    errors = [np.mean((damage(clean, name, i) / 255.0 - clean / 255.0) ** 2) for i in range(12)]
    assert low < -10.0 * np.log10(np.median(errors)) < high


@pytest.mark.parametrize("name", PROTOCOLS)
def test_gray_images_stay_gray(name):
    assert damage(smooth()[..., :1], name, 0).shape == (64, 80, 1)


def test_a_protocol_takes_no_number():
    with pytest.raises(ConfigError, match="rain takes no number"):
        parse_degradation("rain:3")


def test_jpeg_damage_is_that_of_an_encoder():
    clean = smooth((64, 80))
    decoded = parse_degradation("jpeg:20")(clean, 3)
    file = io.BytesIO()
    Image.fromarray(clean).save(file, "JPEG", quality=20)
    assert np.array_equal(decoded, np.asarray(Image.open(file)))
    assert np.array_equal(decoded, parse_degradation("jpeg:20")(clean, 4))
    assert parse_degradation("jpeg:20")(clean[..., :1], 0).shape == (64, 80, 1)


def test_jpeg_is_worse_at_lower_quality():
    clean = ramp()
    errors = [
        np.mean((parse_degradation(f"jpeg:{quality}")(clean, 0) - clean.astype(float)) ** 2)
        for quality in (10, 20, 40, 90)
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("text", ["jpeg", "jpeg:0", "jpeg:101", "jpeg:x"])
def test_jpeg_requires_a_quality(text):
    with pytest.raises(ConfigError, match="expected a number from 1 to 100, as in jpeg:20"):
        parse_degradation(text)


def test_convolution_with_a_point_moves_nothing():
    image = np.random.default_rng(0).random((20, 30, 3))
    point = np.zeros((5, 5))
    point[2, 2] = 1.0
    np.testing.assert_allclose(convolve(image, point), image, atol=1e-12)
