"""Several models on the same test sets."""

import numpy as np
import pytest
from PIL import Image

from varfix.engine.errors import NothingToDoError
from varfix.engine.evaluation.comparison import (
    ComparedModel,
    compare_models,
    comparison_heading,
    comparison_line,
)
from varfix.engine.evaluation.test_sets import BenchmarkFilter

LIMIT = 10**6


@pytest.fixture
def val(tmp_path):
    """Two clean images, as a test set."""
    (tmp_path / "kodak24").mkdir()
    for number in range(2):
        rng = np.random.default_rng(number)
        small = Image.fromarray(rng.integers(20, 230, (6, 8, 3), np.uint8))
        small.resize((80, 64)).save(tmp_path / "kodak24" / f"{number}.png")
    return tmp_path


class Recorder:
    """A restoration that moves the pixels, and keeps which task and image it had."""

    def __init__(self, name, shift, seen):
        self.name, self.shift, self.seen = name, np.float32(shift), seen

    def __call__(self, pixels, task):
        self.seen.append((self.name, task, round(float(pixels.mean()), 5)))
        return (pixels + self.shift).clip(0, 1)


@pytest.fixture
def seen():
    return []


@pytest.fixture
def models(seen):
    return [
        ComparedModel("still", Recorder("still", 0.0, seen), has_tasks=True),
        ComparedModel("moving", Recorder("moving", 0.1, seen), has_tasks=False),
    ]


def test_each_set_is_measured_with_every_model_on_the_same_images(val, models, seen):
    choice = BenchmarkFilter(titles=["Kodak24, noise 25", "Kodak24, rain"])
    (noise, rain) = compare_models(val, models, choice, LIMIT)
    assert [found.model for found in noise] == ["still", "moving"]
    assert {found.result.set for found in rain} == {"Kodak24, rain"}
    assert noise[0].result.input == noise[1].result.input == noise[0].result.auto
    assert noise[1].result.auto.psnr < noise[0].result.auto.psnr - 1
    tasks = [(name, task) for name, task, _ in seen]
    both = [("still", "auto"), ("still", "noise")] * 2 + [("moving", "auto")] * 2
    assert tasks[:6] == both
    assert {image for name, _, image in seen[:4]} == {image for name, _, image in seen[4:6]}


def test_the_table_has_a_preset_for_the_models_with_tasks(val, models):
    heading, dashes = comparison_heading(models).splitlines()
    assert heading == (
        "| set | images | input | still | SSIM | still, preset | CPU-s / MP"
        " | moving | SSIM | CPU-s / MP |"
    )
    rows = list(compare_models(val, models, BenchmarkFilter(sample=1), LIMIT))
    lines = [comparison_line(models, row) for row in rows]
    assert {text.count("|") for text in lines} == {heading.count("|")} == {dashes.count("|")}
    cells = [cell.strip() for cell in lines[0].split("|")]
    assert cells[3] == cells[4] == cells[6]


def test_a_clean_image_has_no_preset_and_no_figure_of_its_own(val, models):
    choice = BenchmarkFilter(titles=["Kodak24, nothing (a clean image)"])
    (row,) = compare_models(val, models, choice, LIMIT)
    cells = [cell.strip() for cell in comparison_line(models, row).split("|")]
    assert cells[3:7] == ["∞", "60.00", "1.0000", ""]


def test_a_folder_without_test_sets_is_refused(tmp_path, models):
    with pytest.raises(NothingToDoError, match="no test sets"):
        list(compare_models(tmp_path, models, BenchmarkFilter(), LIMIT))
