"""`varfix dir`: a tree of images."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from varfix.cli.cluster_option import cluster_option
from varfix.cli.folder_argument import FOLDER_IN, FOLDER_OUT
from varfix.cli.options import (
    Command,
    CountOrAuto,
    EventOptions,
    ModelOptions,
    OutputOptions,
    event_options,
    model_options,
    output_options,
    packed,
    terminal_options,
)
from varfix.cli.terminal import Terminal

if TYPE_CHECKING:
    from varfix.cli.run_session import Opened
    from varfix.engine.batch.plan import BatchRequest
    from varfix.engine.restoration.restorer import Restorer
    from varfix.engine.storage.store import Store

_EPILOG: Final = """\b
Examples:
  varfix dir photos restored                          every image, subfolders too
  varfix dir -p derain -s 0.7 photos restored         gently, rain only
  varfix dir -n --sample 20 photos restored           what would 20 of them cost?
  varfix dir --exclude 'raw/' --exclude '*.bmp' photos restored
  varfix dir -f webp --set output.webp_quality=80 photos restored
  varfix dir --name '{dir}{stem}.{preset}{ext}' photos restored
  varfix dir --cluster ray://head:10001 /nas/photos /nas/restored
  fd -0 -e jpg . photos | varfix dir photos restored --files-from - -0
  varfix dir --report restored.html photos restored   compare before and after
  varfix dir -q --json photos restored | jq -r 'select(.event=="item.fail").message'

\b
Stopped half-way, by Ctrl-C or by a power cut? The same command goes on: what is
done is skipped. Files that varfix did not make are never replaced without
--overwrite. What is done is remembered in DST/.varfix.

\b
--json writes one JSON object a line: {"v":1, "t":TIME, "run":ID, "event":KIND, ...}
  run.start, plan          model, device really used; how much is to be done
  item.start, .progress    an image is being read; how many of its tiles, or of a
                           clip's frames, are done
  item.done, .skip, .fail  what became of it; "code" is made for programs
  warning                  something to know that stops nothing
  run.end                  counts, speed, and "exit", the exit code
With -n there is only the plan. Fields may be added, but not change, while "v" is 1.
The JSON Schema comes with varfix: engine/events.schema.json in its package.
"""


@dataclass(frozen=True)
class Selection:
    """Which images, under which names, how many at once."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    flat: bool
    files_from: str | None
    null: bool
    sample: int | None
    name: str
    jobs: int | str | None
    fail_fast: bool

    def listed(self) -> tuple[str, ...] | None:
        """Read the names of `--files-from`, as bytes: they need not be text.

        Raises:
            click.UsageError: The list cannot be read, or `-0` is missing or out of place.
        """
        place = self.files_from
        if place is None:
            if self.null:
                raise click.UsageError("-0 says how --files-from is separated; give --files-from")
            return None
        try:
            data = sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
        except OSError as error:
            raise click.UsageError(f"--files-from {place}: {error.strerror or error}") from error
        if not self.null and b"\0" in data:
            raise click.UsageError(
                f"--files-from {place}: holds NUL; give -0 if that separates the names, and write a"
                " list of lines as UTF-8"
            )
        data = data.removeprefix(codecs.BOM_UTF8)  # Windows' editors and shells begin with it
        names = data.split(b"\0") if self.null else data.splitlines()
        return tuple(os.fsdecode(name) for name in names if name)

    def request(self, files: tuple[str, ...] | None, preset: str, overwrite: bool) -> BatchRequest:
        """Return the selection as the engine takes it; `files` is what `listed` returned."""
        from varfix.engine.batch.plan import BatchRequest
        from varfix.engine.storage.scan import Filters

        return BatchRequest(
            filters=Filters(self.include, self.exclude, recursive=not self.flat),
            files=files,
            name=self.name,
            preset=preset,
            overwrite=overwrite,
            sample=self.sample,
        )


_selection = packed(
    "selection",
    Selection,
    click.option(
        "--include",
        multiple=True,
        metavar="GLOB",
        help="Only images that match, by the rules of .gitignore; may be repeated.",
    ),
    click.option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="Leave out what matches, by the rules of .gitignore; may be repeated.",
    ),
    click.option("--no-recursive", "flat", is_flag=True, help="Leave subfolders alone."),
    click.option(
        "--files-from",
        metavar="FILE|-",
        help="Take the images listed in a file or on stdin, one per line, instead of searching;"
        " names are relative to SRC or to here.",
    ),
    click.option(
        "-0", "null", is_flag=True, help="The list is separated by NUL, as 'fd -0' writes it."
    ),
    click.option(
        "--sample",
        type=click.IntRange(min=1),
        metavar="N",
        help="Only N images, evenly spaced over all: a preview of the run.",
    ),
    click.option(
        "--name",
        default="{dir}{stem}{ext}",
        metavar="TEMPLATE",
        help="Names of the results, from {dir} {stem} {ext} {preset} {model}."
        "  [default: {dir}{stem}{ext}]",
    ),
    click.option(
        "-j",
        "--jobs",
        type=CountOrAuto(),
        metavar="auto|N",
        help="Threads that read, and as many that write, beside the one that restores."
        "  [default: auto]",
    ),
    click.option("--fail-fast", is_flag=True, help="Stop at the first image that fails."),
)


def _report_name(
    context: click.Context, parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Refuse a report of a format that there is not (click.BadParameter)."""
    if path is not None and path.suffix.lower() not in (".json", ".csv", ".html"):
        raise click.BadParameter(f"the name must end in .html, .csv or .json, not {path.name}")
    return path


@click.command("dir", cls=Command, epilog=_EPILOG)
@click.argument("src", type=FOLDER_IN)
@click.argument("dst", type=FOLDER_OUT)
@model_options
@_selection
@output_options
@event_options
@cluster_option
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_report_name,
    metavar="FILE",
    help="Write what became of every image to FILE.html, with images before and after to"
    " compare, or to FILE.csv or FILE.json; replaces the report of an earlier run.",
)
@terminal_options
def command(  # noqa: PLR0913 (one record for each group of options)
    src: Path | Store,
    dst: Path | Store,
    model: ModelOptions,
    selection: Selection,
    output: OutputOptions,
    events: EventOptions,
    cluster: str | None,
    report: Path | None,
    terminal: Terminal,
) -> int:
    """Restore every image and clip under the folder SRC into the same tree under DST.

    Names, sizes, orientation, color profiles and metadata stay as they are. An image that fails is
    named at the end and stops nothing else. Inputs are never changed. Clips (mp4, mov, mkv, webm,
    avi) are restored as by 'varfix video', whose settings apply; avi becomes mkv.

    SRC and DST may be addresses of object stores, such as s3://bucket/folder.
    """
    from varfix.cli.run_session import Session

    resolved = model.resolve(terminal, {"output.format": output.format, "io.jobs": selection.jobs})
    files = selection.listed()
    session = Session(resolved.settings, terminal, events, model.label)
    with ExitStack() as stack:
        if cluster is None:
            opened: Opened[Restorer] = session.opened()
        else:
            opened = stack.enter_context(session.hired(cluster))
            # Elsewhere, names would be looked up from another folder.
            src, dst = (end.absolute() if isinstance(end, Path) else end for end in (src, dst))

        from varfix.cli.dry_run import setting_texts, show_plan
        from varfix.cli.report.report import Heading, reporting
        from varfix.engine.batch.context import Options
        from varfix.engine.batch.fingerprint import settings_fingerprint
        from varfix.engine.batch.plan import ignored_lines, plan_batch
        from varfix.engine.storage.addresses import display_address
        from varfix.engine.system.display_names import printable

        recipe = settings_fingerprint(resolved.settings, opened.sha256, opened.restorer.tile)
        request = selection.request(files, model.label, output.overwrite)
        with terminal.busy(f"Looking through {display_address(src)}"):
            plan = plan_batch(src, dst, request, resolved.settings, recipe)
        for line in ignored_lines(plan.found):
            terminal.detail(line)
        if output.dry_run:
            return show_plan(plan, opened, resolved, terminal, events)
        heading = Heading(
            source=printable(display_address(src)),
            target=printable(display_address(dst)),
            preset=model.label,
            settings=dict(setting_texts(resolved)),
            origins=resolved.origins,
        )
        told = stack.enter_context(reporting(report, heading, terminal.say))
        options = Options(
            "dir",
            opened.sha256,
            selection.fail_fast,
            session.stop,
            crew=opened.crew,
            watch=told.look if told else None,
        )
        return session.run(plan, opened, options, told)
