"""Everything that a model is measured on, and the table that comes of it.

A folder of test sets holds one folder for each: `input` and `target` of the same names where the
damage is real, clean images where varfix damages them (`engine/evaluation/synthetic_damage.py`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from varfix.engine.errors import ConfigError, NothingToDoError
from varfix.engine.evaluation.metrics import Scores, score
from varfix.engine.evaluation.pairs import (
    Compare,
    Degrade,
    Sample,
    degraded_samples,
    find_pairs,
    measure,
    paired_samples,
    parse_degradation,
)
from varfix.engine.evaluation.shift_metrics import score_up_to_shift
from varfix.engine.image.picture import Floats

RestoreAs = Callable[[Floats, str], Floats]
"""Restores (H, W, 3) in [0, 1] under a task of `varfix.engine.models.card.TASKS`."""


@dataclass(frozen=True)
class Benchmark:
    """One line of the table.

    Attributes:
        title: what people read.
        folder: of the test set.
        task: what a user would ask for; empty where nothing is wrong.
        degrade: how clean images are damaged, as `varfix eval --degrade` takes it; None where
            the folder holds pairs.
        compare: how a result is scored.
    """

    title: str
    folder: str
    task: str
    degrade: str | None = None
    compare: Compare = score


BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark("Kodak24, noise 15", "kodak24", "noise", "noise:15"),
    Benchmark("Kodak24, noise 25", "kodak24", "noise", "noise:25"),
    Benchmark("Kodak24, noise 50", "kodak24", "noise", "noise:50"),
    Benchmark("CC15, real camera noise", "noise_cc15", "noise"),
    Benchmark("Rain100H, heavy rain", "rain100h", "rain"),
    Benchmark("Rain1400, soft rain", "rain1400", "rain"),
    Benchmark("rain with veil", "heavyrain", "rain"),
    Benchmark("Kodak24, rain", "kodak24", "rain", "rain"),
    Benchmark("SOTS indoor, haze", "haze_sots_indoor", "haze"),
    Benchmark("Kodak24, haze", "kodak24", "haze", "haze"),
    Benchmark("SICE, dark", "dark_sice", "lowlight"),
    Benchmark("Kodak24, dark", "kodak24", "lowlight", "lowlight"),
    Benchmark("Levin, camera shake (best shift)", "shake_levin", "blur", compare=score_up_to_shift),
    Benchmark("Kodak24, camera shake", "kodak24", "blur", "blur"),
    Benchmark("Kodak24, snow", "kodak24", "snow", "snow"),
    Benchmark("Kodak24, nothing (a clean image)", "kodak24", "", "noise:0"),
)


class BenchmarkResult(msgspec.Struct, frozen=True, kw_only=True):
    """A trial's averages over its images.

    Attributes:
        set: the trial's title.
        folder: of the test set.
        task: the preset of `preset`; empty where there is none.
        pictures: how many.
        megapixels: restored, in all.
        input: scores of the damaged images; None where they are the targets.
        auto: restored without a hint.
        preset: restored under the task's own preset; None where there is none.
        worst: the least change in PSNR of any image under any preset.
        seconds: of wall-clock time for each restored megapixel.
        cpu_seconds: of all threads together.
    """

    set: str
    folder: str
    task: str
    pictures: int
    megapixels: float
    input: Scores | None
    auto: Scores
    preset: Scores | None
    worst: float | None
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class BenchmarkFilter:
    """Which part of the table is wanted.

    Attributes:
        only: folders; none for all.
        sample: images of each set, evenly spaced; None for all.
        titles: lines; none for all.
    """

    only: Sequence[str] = ()
    sample: int | None = None
    titles: Sequence[str] = ()


def run_benchmarks(
    folder: Path, restore: RestoreAs, choice: BenchmarkFilter, max_pixels: int
) -> Iterator[BenchmarkResult]:
    """Measure a model on every test set that the folder holds, in the order of `BENCHMARKS`.

    Raises:
        ConfigError: A set was asked for that is no trial's.
        NothingToDoError: The folder holds none of them.
        ItemError: An image cannot be read, compared or restored.
    """
    known = {trial.folder for trial in BENCHMARKS}
    for name in choice.only:
        if name not in known:
            raise ConfigError(f'no test set "{name}"', hint=f"known: {', '.join(sorted(known))}")
    wanted = [
        trial
        for trial in BENCHMARKS
        if (not choice.only or trial.folder in choice.only)
        and (not choice.titles or trial.title in choice.titles)
        and (folder / trial.folder).is_dir()
    ]
    if not wanted:
        raise NothingToDoError(
            f"No test sets under {folder} (looked for {', '.join(sorted(known))})"
        )
    for trial in wanted:
        samples = _samples(trial, folder / trial.folder, max_pixels)
        yield _row(trial, _spread(samples, choice.sample), restore)


def _samples(trial: Benchmark, folder: Path, max_pixels: int) -> Sequence[Callable[[], Sample]]:
    """One function for each image, which reads and damages it."""
    if trial.degrade is None:
        pairs = find_pairs(folder / "input", folder / "target").pairs
        return paired_samples(pairs, max_pixels)
    degrade: Degrade = parse_degradation(trial.degrade)
    return degraded_samples(folder, degrade, max_pixels)


def _spread(
    samples: Sequence[Callable[[], Sample]], count: int | None
) -> Sequence[Callable[[], Sample]]:
    """Up to `count` of them, evenly spaced."""
    if count is None or count >= len(samples):
        return samples
    return [samples[(2 * i + 1) * len(samples) // (2 * count)] for i in range(count)]


def _row(
    trial: Benchmark, samples: Sequence[Callable[[], Sample]], restore: RestoreAs
) -> BenchmarkResult:
    clock = RestoreTimer()
    before: list[Scores] = []
    auto: list[Scores] = []
    preset: list[Scores] = []
    changes: list[float | None] = []
    for read in samples:
        sample = read()
        for task, column in (("auto", auto), (trial.task, preset)):
            if task:
                one = measure(sample, clock.timed(restore, task), trial.compare)
                column.append(one.restored)
                changes.append(one.gain)
        assert one.before is not None
        before.append(one.before)
    perfect = all(math.isinf(scores.psnr) for scores in before)
    return BenchmarkResult(
        set=trial.title,
        folder=trial.folder,
        task=trial.task,
        pictures=len(samples),
        megapixels=clock.megapixels,
        input=None if perfect else Scores.mean(before),
        auto=Scores.mean(auto),
        preset=Scores.mean(preset) if preset else None,
        worst=None if perfect else min(change for change in changes if change is not None),
        seconds=clock.wall / clock.megapixels,
        cpu_seconds=clock.cpu / clock.megapixels,
    )


class RestoreTimer:
    """Adds up what restorations cost."""

    def __init__(self) -> None:
        self.wall = self.cpu = self.megapixels = 0.0

    def timed(self, restore: RestoreAs, task: str) -> Callable[[Floats], Floats]:
        """The same restoration under that task, its time added up here."""

        def run(pixels: Floats) -> Floats:
            wall, cpu = time.perf_counter(), time.process_time()
            restored = restore(pixels, task)
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu
            self.megapixels += pixels.shape[0] * pixels.shape[1] / 1e6
            return restored

        return run


HEADINGS = ("set", "images", "input", "auto", "gain", "SSIM", "preset", "gain", "CPU-s / MP")


def heading() -> str:
    """The first two lines of the table in Markdown."""
    return f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}"


def line(row: BenchmarkResult) -> str:
    """A row in Markdown; PSNR in dB."""
    known = None if row.input is None else row.input.psnr
    cells = [row.set, str(row.pictures), "∞" if known is None else f"{known:.2f}"]
    cells += [_decibels(row.auto.psnr), _gain(row.auto, known), f"{row.auto.ssim:.4f}"]
    if row.preset is None:
        cells += ["", ""]
    else:
        cells += [_decibels(row.preset.psnr), _gain(row.preset, known)]
    return f"| {' | '.join([*cells, f'{row.cpu_seconds:.1f}'])} |"


def _decibels(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"


def _gain(scores: Scores, known: float | None) -> str:
    return "" if known is None else f"{scores.psnr - known:+.2f}"
