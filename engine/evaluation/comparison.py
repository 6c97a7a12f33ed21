"""Several models on the same test sets, in one table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from varfix.engine.evaluation.metrics import Scores
from varfix.engine.evaluation.test_sets import (
    BenchmarkFilter,
    BenchmarkResult,
    RestoreAs,
    decibels,
    run_benchmarks,
)


@dataclass(frozen=True)
class ComparedModel:
    """A model of the table.

    Attributes:
        name: Its heading.
        restore: Restores an image.
        has_tasks: Whether it was trained for tasks; else one restoration is measured.
    """

    name: str
    restore: RestoreAs
    has_tasks: bool


class ModelResult(msgspec.Struct, frozen=True, kw_only=True):
    """Averages of one model over the images of one benchmark."""

    model: str
    result: BenchmarkResult


def compare_models(
    folder: Path, models: Sequence[ComparedModel], chosen: BenchmarkFilter, max_pixels: int
) -> Iterator[tuple[ModelResult, ...]]:
    """Measure every model on a test set before the next set begins.

    Yields:
        The results of one benchmark, in the order of `models`.

    Raises:
        ConfigError: A requested test set is unknown.
        NothingToDoError: The folder contains no test set.
        ItemError: An image cannot be read, compared or restored.
    """
    runs = [
        run_benchmarks(
            folder,
            model.restore,
            replace(chosen, presets=chosen.presets and model.has_tasks),
            max_pixels,
        )
        for model in models
    ]
    for results in zip(*runs, strict=True):
        yield tuple(
            ModelResult(model=model.name, result=result)
            for model, result in zip(models, results, strict=True)
        )


def comparison_heading(models: Sequence[ComparedModel]) -> str:
    """Return the first two lines of the table in Markdown."""
    cells = ["set", "images", "input"]
    for model in models:
        preset = [f"{model.name}, preset"] if model.has_tasks else []
        cells += [model.name, "SSIM", *preset, "CPU-s / MP"]
    return f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}"


def comparison_line(models: Sequence[ComparedModel], results: Sequence[ModelResult]) -> str:
    """Return a row in Markdown; PSNR in dB. Damage and images are the same for all models."""
    first = results[0].result
    known = "∞" if first.input is None else decibels(first.input.psnr)
    cells = [first.set, str(first.images), known]
    for model, measured in zip(models, results, strict=True):
        found = measured.result
        cells += [decibels(found.auto.psnr), f"{found.auto.ssim:.4f}"]
        cells += [_optional(found.preset)] if model.has_tasks else []
        cells.append(f"{found.cpu_seconds:.1f}")
    return f"| {' | '.join(cells)} |"


def _optional(scores: Scores | None) -> str:
    return "" if scores is None else decibels(scores.psnr)
