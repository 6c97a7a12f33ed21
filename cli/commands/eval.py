"""`varfix eval`: PSNR and SSIM of images restored by varfix or by other programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from varfix.cli.options import (
    Command,
    ModelOptions,
    model_options,
    option,
    options_record,
    terminal_options,
)
from varfix.cli.terminal import Terminal

if TYPE_CHECKING:
    from varfix.engine.evaluation.pairs import Measured, Pairing, Restore
    from varfix.engine.evaluation.test_sets import RestoreAs
    from varfix.engine.image.decoded_image import Floats
    from varfix.engine.settings.types import Settings
    from varfix.onnx.inference.restorer import ModelRestorer

_HEADINGS: Final = ("PSNR", "SSIM", "PSNR-Y", "SSIM-Y")
_EPILOG: Final = """\b
Examples:
  varfix eval restored targets                     compare files, restored by any program
  varfix eval --pairs rain/input rain/target       restore in memory; print gain
  varfix eval --degrade noise:25 kodak24           add noise, restore, compare
  varfix eval --degrade jpeg:20 -p dejpeg kodak24  compress, restore, compare
  varfix eval --degrade noise:0 -p auto kodak24    effect on clean images
  varfix eval --json restored targets | tail -n 1  the mean as JSON
  varfix eval --all val                            every test set under val, as in the README
  varfix eval --all val --compare nafnet,scunet    these models beside the shipped one

\b
PSNR (dB) and SSIM (Gaussian window, sigma 1.5) are over RGB; -Y is BT.601 luma. All are
computed from 8-bit values, as in files. The noise is numpy's PCG64, seeded with the
index of the file in sorted order: the same numbers on every machine.

\b
--all prints a Markdown table with a column for the preset auto and one for the preset of
the task of each set. Camera shake is compared at the best shift (to 5 pixels, by quarters;
the protocol of Levin et al. 2009). --json prints one object per line instead.
With --compare, the models share one table: PSNR, SSIM and CPU seconds per megapixel of
each. A noise level (--set model.level=25) applies to the models that have such an input.
"""


@dataclass(frozen=True)
class EvalRequest:
    """Images to measure: file pairs, pairs to restore, images to degrade, or all test sets."""

    degrade: str | None
    pairs: bool
    everything: Path | None
    only: tuple[str, ...]
    sample: int | None
    compare: tuple[str, ...]
    paths: tuple[Path, ...]

    def check(self) -> None:
        """Reject invalid combinations (click.UsageError)."""
        chosen = {"--degrade": self.degrade, "--pairs": self.pairs, "--all": self.everything}
        given = [name for name, value in chosen.items() if value]
        if len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} exclude each other")
        if self.everything is None and (self.only or self.sample or self.compare):
            raise click.UsageError("--only, --sample and --compare require --all")
        wanted = {"--degrade": ["CLEAN"], "--pairs": ["INPUT", "TARGET"], "--all": []}
        names = wanted[given[0]] if given else ["RESTORED", "TARGET"]
        if len(self.paths) != len(names):
            what = " and ".join(names) or "no path with --all"
            raise click.UsageError(f"expected {what}, got {len(self.paths)} path(s)")


@click.command("eval", cls=Command, epilog=_EPILOG)
@options_record(
    "task",
    EvalRequest,
    click.argument(
        "paths",
        nargs=-1,
        metavar="RESTORED TARGET | INPUT TARGET | CLEAN",
        type=click.Path(exists=True, path_type=Path),
    ),
    option(
        "Measurement",
        "--degrade",
        metavar="noise:SIGMA|jpeg:QUALITY|KIND",
        help="Degrade the images of the folder CLEAN, restore them and compare. KIND is rain, haze,"
        " lowlight, blur or snow.",
    ),
    option(
        "Measurement",
        "--pairs",
        is_flag=True,
        help="Restore INPUT first; compare before and after restoration.",
    ),
    option(
        "Measurement",
        "--all",
        "everything",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Measure every known test set under DIR; print one table.",
    ),
    option(
        "Measurement",
        "--only",
        multiple=True,
        metavar="SET",
        help="With --all: measure only this folder; may be repeated.",
    ),
    option(
        "Selection",
        "--sample",
        metavar="N",
        type=click.IntRange(min=1),
        help="With --all: measure N evenly spaced images of each set.",
    ),
    option(
        "Measurement",
        "--compare",
        multiple=True,
        metavar="NAME,NAME",
        help="With --all: more models, beside that of --model; names or paths.",
    ),
)
@model_options
@option("Messages", "--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@terminal_options
def command(task: EvalRequest, model: ModelOptions, as_json: bool, terminal: Terminal) -> None:
    """Measure PSNR and SSIM of images against their targets, per file and on average.

    RESTORED and TARGET are folders (or two files) with images of the same names; extensions may
    differ. With --pairs, the images of INPUT are restored first; with --degrade, the images of the
    folder CLEAN are degraded and restored; both in memory. Preset, model, device and --set apply.
    """
    from varfix.engine.evaluation.pairs import mean

    task.check()
    settings = model.resolve(terminal).settings
    if task.everything is not None:
        _measure_all(task, settings, as_json, terminal)
        return
    measured, names = _measure(task, settings, terminal)
    report = (
        JsonLines() if as_json else Table([*names, "mean"], compares=task.degrade or task.pairs)
    )
    rows = list(_printed(measured, report))
    report.row(mean(rows), len(rows))


def _measure(
    task: EvalRequest, settings: Settings, terminal: Terminal
) -> tuple[Iterable[Measured], list[str]]:
    """Return the measurements, as a lazy iterable, and their names."""
    from varfix.engine.evaluation import pairs as evaluate

    limit = settings.limits.max_pixels
    if task.degrade is not None:
        degrade, folder = evaluate.parse_degradation(task.degrade), task.paths[0]
        names = [p.relative_to(folder).as_posix() for p in evaluate.find_images(folder)]
        restore = _restore(settings, terminal)
        return evaluate.score_degraded(folder, degrade, restore, limit), names
    pairing = evaluate.find_pairs(*task.paths)
    _note_unused(pairing, terminal)
    names = [pair.name for pair in pairing.pairs]
    if task.pairs:
        return evaluate.score_restored(pairing.pairs, _restore(settings, terminal), limit), names
    return evaluate.score_files(pairing.pairs, limit), names


def _note_unused(pairing: Pairing, terminal: Terminal) -> None:
    if pairing.unused:
        terminal.warn(f"{pairing.unused} of the targets have no matching image")


def _measure_all(task: EvalRequest, settings: Settings, as_json: bool, terminal: Terminal) -> None:
    """Print the table line by line, as sets are finished."""
    from varfix.engine.evaluation.test_sets import BenchmarkFilter, heading, line, run_benchmarks

    assert task.everything is not None
    names = _compared(task, settings)
    if len(names) > 1:
        _compare_all(task, _settings_of(names, settings), as_json, terminal)
        return
    restorer = _opened(settings, terminal)
    choice = BenchmarkFilter(task.only, task.sample, presets=_has_tasks(restorer))
    rows = run_benchmarks(
        task.everything, _restore_as(restorer, settings), choice, settings.limits.max_pixels
    )
    for number, row in enumerate(rows):
        if as_json:
            click.echo(msgspec.json.encode(row))
        else:
            click.echo(line(row) if number else f"{heading()}\n{line(row)}")


def _compare_all(
    task: EvalRequest, all_settings: Sequence[Settings], as_json: bool, terminal: Terminal
) -> None:
    """Print a table with columns for each model, line by line."""
    from varfix.engine.evaluation import comparison
    from varfix.engine.evaluation.test_sets import BenchmarkFilter

    assert task.everything is not None
    models = []
    for settings in all_settings:
        restorer = _opened(settings, terminal)
        restore = _restore_as(restorer, settings)
        name, has_tasks = Path(settings.model.name).name, _has_tasks(restorer)
        models.append(comparison.ComparedModel(name, restore, has_tasks))
    limit, choice = all_settings[0].limits.max_pixels, BenchmarkFilter(task.only, task.sample)
    rows = comparison.compare_models(task.everything, models, choice, limit)
    for number, row in enumerate(rows):
        if as_json:
            for measured in row:
                click.echo(msgspec.json.encode(measured))
            continue
        if number == 0:
            click.echo(comparison.comparison_heading(models))
        click.echo(comparison.comparison_line(models, row))


def _compared(task: EvalRequest, settings: Settings) -> list[str]:
    """Return the names of the models, that of --model first."""
    more = [name.strip() for text in task.compare for name in text.split(",")]
    return list(dict.fromkeys([settings.model.name, *filter(None, more)]))


def _settings_of(names: Sequence[str], settings: Settings) -> list[Settings]:
    """Return the settings of each model; a noise level goes to those with an input for it.

    Raises:
        ConfigError: No model has an input for the noise level.
        ModelError: A model is missing or damaged.
    """
    from varfix.onnx.files.model_files import find_model
    from varfix.onnx.inference.model_info import read_model_info
    from varfix.onnx.inference.signature import check_level

    cards = [read_model_info(find_model(name)).card for name in names]
    if not any(card.level for card in cards):
        check_level(settings.model.level, cards[0])
    levels = [settings.model.level if card.level else None for card in cards]
    return [
        msgspec.structs.replace(
            settings, model=msgspec.structs.replace(settings.model, name=name, level=level)
        )
        for name, level in zip(names, levels, strict=True)
    ]


def _restore(settings: Settings, terminal: Terminal) -> Restore:
    """Open the model and return the function that restores one image."""
    restore = _restore_as(_opened(settings, terminal), settings)
    return lambda pixels: restore(pixels, settings.model.task)


def _opened(settings: Settings, terminal: Terminal) -> ModelRestorer:
    """Open the model, and say where it runs."""
    with terminal.busy(f"Loading {settings.model.name}"):
        from varfix.onnx.inference.open_model import open_restorer

        restorer = open_restorer(
            settings.model.name, settings, warn=lambda code, text: terminal.warn(text)
        )
    used = restorer.used
    terminal.say(f"{restorer.card.name} on {used.device} ({used.provider}, {used.precision})")
    return restorer


def _has_tasks(restorer: ModelRestorer) -> bool:
    return set(restorer.card.tasks) > {"auto"}


def _restore_as(restorer: ModelRestorer, settings: Settings) -> RestoreAs:
    """Return the function that restores one image under a given task."""
    from varfix.engine.restoration.restore_image import restore_image

    def restore(pixels: Floats, task: str) -> Floats:
        model = msgspec.structs.replace(settings.model, task=task)
        return restore_image(restorer, pixels, msgspec.structs.replace(settings, model=model))

    return restore


def _printed(measured: Iterable[Measured], report: Table | JsonLines) -> Iterator[Measured]:
    for row in measured:
        report.row(row)
        yield row


class Table:
    """Prints measurements as aligned columns."""

    def __init__(self, names: Iterable[str], compares: object) -> None:
        self._width = max(len(name) for name in names)
        headings = [*_HEADINGS, *(("input", "gain") if compares else ())]
        click.echo(" " * self._width + "".join(f"{heading:>9}" for heading in headings))

    def row(self, measured: Measured, files: int | None = None) -> None:
        """Print an image's line, or the last one with the average over `files` images."""
        scores = measured.restored
        cells = [f"{scores.psnr:9.3f}", f"{scores.ssim:9.4f}"]
        cells += [f"{scores.psnr_y:9.3f}", f"{scores.ssim_y:9.4f}"]
        if measured.before is not None:
            cells += [f"{measured.before.psnr:9.3f}", f"{measured.gain:+9.3f}"]
        click.echo(f"{measured.name:{self._width}}{''.join(cells)}")


class JsonLines:
    """Prints measurements as JSON lines; an infinite PSNR (equal images) is null."""

    def row(self, measured: Measured, files: int | None = None) -> None:
        """Print an image's object, or the last one with the average over `files` images."""
        fields: dict[str, Any] = {"file": measured.name} if files is None else {"mean_of": files}
        fields["restored"] = measured.restored
        if measured.before is not None:
            fields |= {"input": measured.before, "gain": measured.gain}
        click.echo(msgspec.json.encode(fields))
