"""`--dry-run`: prints the plan, the expected time, and with `-v` every setting and its origin."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from varfix.cli.options import EventOptions
from varfix.cli.run_session import LoadedModel
from varfix.cli.run_stats import duration
from varfix.cli.terminal import Terminal
from varfix.engine.errors import ExitCode
from varfix.engine.system.counts import counted

if TYPE_CHECKING:
    from varfix.engine.batch.item import Item
    from varfix.engine.batch.plan import Plan
    from varfix.engine.restoration.restorer import Restorer
    from varfix.engine.settings.resolve import Resolved
    from varfix.engine.settings.types import Settings

# Rough bytes per pixel of natural images at the default qualities.
_BYTES: Final = {
    "jpeg": 0.7,
    "png": 2.0,
    "webp": 0.3,
    "tiff": 3.0,
    "avif": 0.3,
    "bmp": 3.0,
    "heif": 0.4,
    "jxl": 1.8,
}


def show_plan(
    plan: Plan,
    loaded: LoadedModel[Restorer],
    resolved: Resolved,
    terminal: Terminal,
    events: EventOptions,
) -> int:
    """Print what a run would do to stdout, as lines or as an event; return the exit code."""
    if events.as_json:
        _print_event(plan)
        return ExitCode.OK
    if terminal.verbose:
        for line in _origins(resolved):
            click.echo(line)
    for line in _lines(plan, loaded, resolved.settings):
        click.echo(line)
    return ExitCode.OK


def _print_event(plan: Plan) -> None:
    from varfix.cli.event_log import EventLog, Sink
    from varfix.engine.events import PlanDone

    reasons = ("done", "stale", "foreign")
    skips = {f"skip_{reason}": plan.skipped(reason) for reason in reasons}
    log = EventLog([Sink("stdout", sys.stdout.buffer, lambda: None)])
    log(PlanDone(items=len(plan.items), pixels=plan.pixels, **skips))


def setting_texts(resolved: Resolved) -> Iterator[tuple[str, str]]:
    """Yield the dotted key and the value of each setting, as text."""
    for key in resolved.origins:
        value = resolved.value(key)
        yield key, "auto" if value is None else str(value)


def _origins(resolved: Resolved) -> Iterator[str]:
    """Yield each setting with its value and origin."""
    for key, value in setting_texts(resolved):
        yield f"{key} = {value}  ({resolved.origins[key]})"


def _lines(plan: Plan, loaded: LoadedModel[Restorer], settings: Settings) -> Iterator[str]:

    from varfix.engine.system.display_names import single_line

    for item in plan.items:
        source, target = item.source.event_name, item.target.event_name
        yield f"{single_line(source)} -> {single_line(target)}  {_size(item)}"
    for skip in plan.skips:
        yield f"{single_line(skip.src)}: skip ({skip.reason})"
    used, card = loaded.restorer.used, loaded.restorer.card
    yield (
        f"{card.name} on {used.device} ({used.provider}, {used.precision}),"
        f" tile {loaded.restorer.tile}, batch {loaded.restorer.batch}"
    )
    readable = sum(item.size is not None for item in plan.items)
    bad = len(plan.items) - readable
    counts = f"{readable} to restore ({plan.pixels / 1e6:.1f} MP), {len(plan.skips)} to skip"
    yield f"{counts}, {bad} unreadable" if bad else counts
    if plan.pixels:
        bytes_ = sum(_bytes(item, settings) for item in plan.items)
        seconds = _seconds(plan, loaded, settings)
        yield f"about {bytes_ / 1e6:.1f} MB to write, about {duration(seconds)} to restore"


def _size(item: Item) -> str:
    if item.size is None:
        return "unreadable"
    size = f"{item.size[0]}x{item.size[1]}"
    return f"{size}, {counted(item.frames, 'frame')}" if item.frames else size


def _bytes(item: Item, settings: Settings) -> float:
    """Estimate the size of a result: that of the source if the format is kept, else by pixels."""
    from varfix.engine.formats import output_format

    if item.header is not None:
        wanted = output_format(item.header.format, settings.output.format)
        if wanted != item.header.format:
            return item.pixels * _BYTES[wanted] * item.header.depth / 8
    path, version = item.source.path, item.source.version
    if path is None:
        return float(version.st_size) if version else 0.0
    return float(path.stat().st_size) if path.is_file() else 0.0


def _seconds(plan: Plan, loaded: LoadedModel[Restorer], settings: Settings) -> float:
    """Estimate the time of all tiles by area, from one tile that is measured now."""
    import numpy as np

    from varfix.engine.restoration.restore_image import restore_image, tile_grid_for

    side = loaded.restorer.tile
    sample = np.full((side, side, 3), 0.5, np.float32)
    restore_image(loaded.restorer, sample, settings)  # warm up
    start = time.monotonic()
    restore_image(loaded.restorer, sample, settings)
    each = time.monotonic() - start
    area = 0
    for item in plan.items:
        if item.size is not None:
            grid = tile_grid_for(loaded.restorer, (item.size[1], item.size[0]), settings)
            area += len(grid) * math.prod(grid.sides) * (item.frames or 1)
    return each / side**2 * area
