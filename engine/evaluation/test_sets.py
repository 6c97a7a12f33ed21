"""The test sets of a model, and the table of results.

A folder of test sets contains one folder for each: `input` and `target` with files of the same
names if the damage is real, or clean images that `engine/evaluation/synthetic_damage.py` damages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

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
from varfix.engine.image.decoded_image import Floats

RestoreAs = Callable[[Floats, str], Floats]
"""Restores (H, W, 3) in [0, 1] under a task of `varfix.engine.models.card.TASKS`."""


@dataclass(frozen=True)
class Benchmark:
    """One line of the table.

    Attributes:
        title: Title in the table.
        folder: Folder of the test set.
        task: The matching task, or several, as in `rain,haze`; empty if the images are clean.
        degrade: Damage of clean images, a value of `varfix eval --degrade`; None if the folder
            contains pairs.
        compare: Scores a result.
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
    Benchmark("Kodak24, JPEG 10", "kodak24", "noise", "jpeg:10"),
    Benchmark("Kodak24, JPEG 20", "kodak24", "noise", "jpeg:20"),
    Benchmark("Kodak24, JPEG 40", "kodak24", "noise", "jpeg:40"),
    Benchmark("CC15, real camera noise", "noise_cc15", "noise"),
    Benchmark("Rain100H, heavy rain", "rain100h", "rain"),
    Benchmark("Rain1400, soft rain", "rain1400", "rain"),
    Benchmark("rain with veil", "heavyrain", "rain,haze"),
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
    """Averages over the images of one benchmark.

    Attributes:
        set: Title of the benchmark.
        folder: Folder of the test set.
        task: Task that matches the damage; empty if there is none.
        images: Number of images; stored as `pictures`.
        megapixels: Restored megapixels.
        input: Scores of the damaged images; None if they are the targets.
        auto: Scores after restoration without a task.
        preset: Scores after restoration with the task; None if there is none, or for a model that
            was not trained for tasks.
        worst: Least change in PSNR of any image with or without the task, in dB.
        seconds: Wall-clock seconds per restored megapixel.
        cpu_seconds: CPU seconds of all threads per restored megapixel.
    """

    set: str
    folder: str
    task: str
    images: int = msgspec.field(name="pictures")
    megapixels: float
    input: Scores | None
    auto: Scores
    preset: Scores | None
    worst: float | None
    seconds: float
    cpu_seconds: float


@dataclass(frozen=True)
class BenchmarkFilter:
    """Selects a part of the table.

    Attributes:
        only: Folders; empty for all.
        sample: Number of images of each set, evenly spaced; None for all.
        titles: Titles of lines; empty for all.
        presets: Whether images are also restored with the task of their set.
    """

    only: Sequence[str] = ()
    sample: int | None = None
    titles: Sequence[str] = ()
    presets: bool = True


def run_benchmarks(
    folder: Path, restore: RestoreAs, benchmark_filter: BenchmarkFilter, max_pixels: int
) -> Iterator[BenchmarkResult]:
    """Measure a model on every test set that the folder holds, in the order of `BENCHMARKS`.

    Raises:
        ConfigError: A requested test set is unknown.
        NothingToDoError: The folder contains no test set.
        ItemError: An image cannot be read, compared or restored.
    """
    known = {benchmark.folder for benchmark in BENCHMARKS}
    for name in benchmark_filter.only:
        if name not in known:
            raise ConfigError(
                f'no test set "{name}"', hint=f"use one of {', '.join(sorted(known))}"
            )
    wanted = [
        benchmark
        for benchmark in BENCHMARKS
        if (not benchmark_filter.only or benchmark.folder in benchmark_filter.only)
        and (not benchmark_filter.titles or benchmark.title in benchmark_filter.titles)
        and (folder / benchmark.folder).is_dir()
    ]
    if not wanted:
        raise NothingToDoError(
            f"{folder}: no test sets (expected folders: {', '.join(sorted(known))})"
        )
    for benchmark in wanted:
        samples = _samples(benchmark, folder / benchmark.folder, max_pixels)
        task = benchmark.task if benchmark_filter.presets else ""
        yield _row(benchmark, _evenly_spaced(samples, benchmark_filter.sample), restore, task)


def _samples(benchmark: Benchmark, folder: Path, max_pixels: int) -> Sequence[Callable[[], Sample]]:
    """Return one function for each image, which reads and damages it."""
    if benchmark.degrade is None:
        pairs = find_pairs(folder / "input", folder / "target").pairs
        return paired_samples(pairs, max_pixels)
    degrade: Degrade = parse_degradation(benchmark.degrade)
    return degraded_samples(folder, degrade, max_pixels)


def _evenly_spaced(
    samples: Sequence[Callable[[], Sample]], count: int | None
) -> Sequence[Callable[[], Sample]]:
    """Return up to `count` samples, evenly spaced."""
    if count is None or count >= len(samples):
        return samples
    return [samples[(2 * i + 1) * len(samples) // (2 * count)] for i in range(count)]


def _row(
    benchmark: Benchmark,
    samples: Sequence[Callable[[], Sample]],
    restore: RestoreAs,
    preset_task: str,
) -> BenchmarkResult:
    timer = RestoreTimer()
    before: list[Scores] = []
    auto: list[Scores] = []
    preset: list[Scores] = []
    changes: list[float | None] = []
    for read in samples:
        sample = read()
        for task, column in (("auto", auto), (preset_task, preset)):
            if task:
                measured = measure(sample, timer.timed(restore, task), benchmark.compare)
                column.append(measured.restored)
                changes.append(measured.gain)
        assert measured.before is not None
        before.append(measured.before)
    perfect = all(math.isinf(scores.psnr) for scores in before)
    return BenchmarkResult(
        set=benchmark.title,
        folder=benchmark.folder,
        task=benchmark.task,
        images=len(samples),
        megapixels=timer.megapixels,
        input=None if perfect else Scores.mean(before),
        auto=Scores.mean([_capped(scores) for scores in auto] if perfect else auto),
        preset=Scores.mean(preset) if preset else None,
        worst=None if perfect else min(change for change in changes if change is not None),
        seconds=timer.wall / timer.megapixels,
        cpu_seconds=timer.cpu / timer.megapixels,
    )


UNTOUCHED: Final = 60.0
"""PSNR in dB that an image counts as at most if its input is perfect: one that comes back equal has
an infinite PSNR, and so would the mean of the set."""


def _capped(scores: Scores) -> Scores:
    return replace(scores, psnr=min(scores.psnr, UNTOUCHED))


class RestoreTimer:
    """Adds up the time of restorations.

    Attributes:
        wall: Wall-clock seconds.
        cpu: CPU seconds.
        megapixels: Restored megapixels.
    """

    def __init__(self) -> None:
        self.wall = self.cpu = self.megapixels = 0.0

    def timed(self, restore: RestoreAs, task: str) -> Callable[[Floats], Floats]:
        """Return the restoration with a task, timed."""

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
    """Return the first two lines of the table in Markdown."""
    return f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}"


def line(row: BenchmarkResult) -> str:
    """Return a row in Markdown; PSNR in dB."""
    known = None if row.input is None else row.input.psnr
    cells = [row.set, str(row.images), "∞" if known is None else f"{known:.2f}"]
    cells += [decibels(row.auto.psnr), _gain(row.auto, known), f"{row.auto.ssim:.4f}"]
    if row.preset is None:
        cells += ["", ""]
    else:
        cells += [decibels(row.preset.psnr), _gain(row.preset, known)]
    return f"| {' | '.join([*cells, f'{row.cpu_seconds:.1f}'])} |"


def decibels(value: float) -> str:
    """Return a PSNR as text, with two decimals."""
    return "∞" if math.isinf(value) else f"{value:.2f}"


def _gain(scores: Scores, known: float | None) -> str:
    return "" if known is None else f"{scores.psnr - known:+.2f}"
