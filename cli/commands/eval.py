"""`varfix eval`: PSNR and SSIM of restored images, of other programs' as well as varfix's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from varfix.cli.options import Command, ModelOptions, model_options, packed, terminal_options
from varfix.cli.terminal import Terminal

if TYPE_CHECKING:
    from varfix.engine.evaluation.pairs import Measured, Pairing, Restore
    from varfix.engine.evaluation.test_sets import RestoreAs
    from varfix.engine.image.picture import Floats
    from varfix.engine.settings.types import Settings

_HEADINGS: Final = ("PSNR", "SSIM", "PSNR-Y", "SSIM-Y")
_EPILOG: Final = """\b
Examples:
  varfix eval restored targets                     files restored earlier, by any program
  varfix eval --pairs rain/input rain/target       restore in memory; before, after, gain
  varfix eval --degrade noise:25 kodak24           add noise, restore, compare
  varfix eval --degrade jpeg:20 -p dejpeg kodak24  compress, restore, compare
  varfix eval --degrade noise:0 -p auto kodak24    does a clean image stay clean?
  varfix eval --json restored targets | tail -n 1  the mean, for a program
  varfix eval --all val                            every test set under val: the README's table

\b
PSNR (dB) and SSIM (Gaussian window, sigma 1.5) are over RGB; -Y is BT.601 luma. All are
computed from 8 bits, what a file holds. The noise is numpy's PCG64, seeded with the
index of the file in sorted order: the same numbers on every machine.

\b
--all prints a Markdown table with a column for the preset auto and one for the preset of
each set's task. Camera shake is compared after the best shift (to 5 pixels, by quarters;
the protocol of Levin et al. 2009). --json gives the same as one object for each line.
"""


@dataclass(frozen=True)
class Task:
    """What to measure: given files, files to restore, files to damage and restore, or all sets."""

    degrade: str | None
    pairs: bool
    everything: Path | None
    only: tuple[str, ...]
    sample: int | None
    paths: tuple[Path, ...]

    def check(self) -> None:
        """Refuse combinations that mean nothing (click.UsageError)."""
        chosen = {"--degrade": self.degrade, "--pairs": self.pairs, "--all": self.everything}
        given = [name for name, value in chosen.items() if value]
        if len(given) > 1:
            raise click.UsageError(f"{' and '.join(given)} exclude each other")
        if self.everything is None and (self.only or self.sample):
            raise click.UsageError("--only and --sample choose from --all")
        wanted = {"--degrade": ["CLEAN"], "--pairs": ["INPUT", "TARGET"], "--all": []}
        names = wanted[given[0]] if given else ["RESTORED", "TARGET"]
        if len(self.paths) != len(names):
            what = " and ".join(names) or "nothing beside --all"
            raise click.UsageError(f"expected {what}, got {len(self.paths)} path(s)")


@click.command("eval", cls=Command, epilog=_EPILOG)
@packed(
    "task",
    Task,
    click.argument(
        "paths",
        nargs=-1,
        metavar="RESTORED TARGET | INPUT TARGET | CLEAN",
        type=click.Path(exists=True, path_type=Path),
    ),
    click.option(
        "--degrade",
        metavar="noise:SIGMA|jpeg:QUALITY|KIND",
        help="Damage the images of the folder CLEAN, restore them, compare. KIND is rain, haze,"
        " lowlight, blur or snow.",
    ),
    click.option("--pairs", is_flag=True, help="Restore INPUT first; compare before and after."),
    click.option(
        "--all",
        "everything",
        metavar="DIR",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Measure every known test set under DIR; print one table.",
    ),
    click.option("--only", multiple=True, metavar="SET", help="Of --all, only this folder."),
    click.option(
        "--sample",
        metavar="N",
        type=click.IntRange(min=1),
        help="Of --all, N evenly spaced images of each set.",
    ),
)
@model_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
@terminal_options
def command(task: Task, model: ModelOptions, as_json: bool, terminal: Terminal) -> None:
    """Measure images against what they should be, file by file and on average.

    RESTORED and TARGET are folders (or two files) with images of the same names; their
    extensions may differ. With --pairs the images of INPUT are restored first, with --degrade
    those of the folder CLEAN are damaged and restored, both in memory, as the preset, model, device
    and --set say.
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
    rows = list(_shown(measured, report))
    report.row(mean(rows), len(rows))


def _measure(
    task: Task, settings: Settings, terminal: Terminal
) -> tuple[Iterable[Measured], list[str]]:
    """Return the measurements, made while they are read, and the names they will have."""
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
        terminal.warn(f"{pairing.unused} of the targets have no image to compare with")


def _measure_all(task: Task, settings: Settings, as_json: bool, terminal: Terminal) -> None:
    """Print the table, each line when its set is done."""
    from varfix.engine.evaluation.test_sets import BenchmarkFilter, heading, line, run_benchmarks

    assert task.everything is not None
    restore, choice = _restore_as(settings, terminal), BenchmarkFilter(task.only, task.sample)
    rows = run_benchmarks(task.everything, restore, choice, settings.limits.max_pixels)
    for number, row in enumerate(rows):
        if as_json:
            click.echo(msgspec.json.encode(row))
        else:
            click.echo(line(row) if number else f"{heading()}\n{line(row)}")


def _restore(settings: Settings, terminal: Terminal) -> Restore:
    """Open the model and return the function that restores one image."""
    restore = _restore_as(settings, terminal)
    return lambda pixels: restore(pixels, settings.model.task)


def _restore_as(settings: Settings, terminal: Terminal) -> RestoreAs:
    """Open the model and return the function that restores one image under a given task."""
    with terminal.busy(f"Loading {settings.model.name}"):
        from varfix.engine.restoration.restore_image import restore_image
        from varfix.onnx.inference.open_model import open_restorer

        restorer = open_restorer(
            settings.model.name, settings, warn=lambda code, text: terminal.warn(text)
        )
    used = restorer.used
    terminal.say(f"{restorer.card.name} on {used.device} ({used.provider}, {used.precision})")

    def restore(pixels: Floats, task: str) -> Floats:
        model = msgspec.structs.replace(settings.model, task=task)
        return restore_image(restorer, pixels, msgspec.structs.replace(settings, model=model))

    return restore


def _shown(measured: Iterable[Measured], report: Table | JsonLines) -> Iterator[Measured]:
    for one in measured:
        report.row(one)
        yield one


class Table:
    """Prints measurements as aligned columns."""

    def __init__(self, names: Iterable[str], compares: object) -> None:
        self._width = max(len(name) for name in names)
        headings = [*_HEADINGS, *(("input", "gain") if compares else ())]
        click.echo(" " * self._width + "".join(f"{heading:>9}" for heading in headings))

    def row(self, one: Measured, files: int | None = None) -> None:
        """Print an image's line, or the last one with the average over `files` images."""
        scores = one.restored
        cells = [f"{scores.psnr:9.3f}", f"{scores.ssim:9.4f}"]
        cells += [f"{scores.psnr_y:9.3f}", f"{scores.ssim_y:9.4f}"]
        if one.before is not None:
            cells += [f"{one.before.psnr:9.3f}", f"{one.gain:+9.3f}"]
        click.echo(f"{one.name:{self._width}}{''.join(cells)}")


class JsonLines:
    """Prints measurements as JSON lines; an infinite PSNR (equal images) is null."""

    def row(self, one: Measured, files: int | None = None) -> None:
        """Print an image's object, or the last one with the average over `files` images."""
        facts: dict[str, Any] = {"file": one.name} if files is None else {"mean_of": files}
        facts["restored"] = one.restored
        if one.before is not None:
            facts |= {"input": one.before, "gain": one.gain}
        click.echo(msgspec.json.encode(facts))
