"""`varfix dir`: restore a folder tree."""

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
from varfix.cli.in_place_option import InPlaceOptions, in_place_options
from varfix.cli.options import (
    Command,
    CountOrAuto,
    EventOptions,
    ModelOptions,
    OutputOptions,
    event_options,
    model_options,
    option,
    options_record,
    output_options,
    terminal_options,
)
from varfix.cli.terminal import Terminal

if TYPE_CHECKING:
    from varfix.cli.run_session import LoadedModel
    from varfix.engine.batch.plan import BatchRequest
    from varfix.engine.restoration.restorer import Restorer
    from varfix.engine.storage.store import Store

_EPILOG: Final = """\b
Examples:
  varfix dir photos restored                          every image, subfolders too
  varfix dir -p derain -s 0.7 photos restored         rain only, at 70 % strength
  varfix dir -n --sample 20 photos restored           preview with 20 images
  varfix dir --exclude 'raw/' --exclude '*.bmp' photos restored
  varfix dir -f webp --set output.webp_quality=80 photos restored
  varfix dir --name '{dir}{stem}.{preset}{ext}' photos restored
  varfix dir --cluster ray://head:10001 /nas/photos /nas/restored
  fd -0 -e jpg . photos | varfix dir photos restored --files-from - -0
  varfix dir --report restored.html photos restored   compare before and after
  varfix dir --in-place photos                        'varfix undo photos' goes back
  varfix dir -q --json photos restored | jq -r 'select(.event=="item.fail").message'

\b
To resume an interrupted run, run the same command again: results that are up to
date are skipped. Files that varfix did not write are replaced only with
--overwrite. DST/.varfix holds the manifest of the results.

\b
--in-place keeps every original in SRC/.varfix/originals (or --backup FOLDER), byte
for byte, with its times and mode: as a hard link, which takes no space until the
image is replaced, or as a copy on another disk. 'varfix undo SRC' brings them back.
Run again, it restores new images only; with other settings and --overwrite, all are
restored again from their originals. Links stay links, and what they lead to is
replaced. Images that fail, and videos, stay as they are and are named. If you
delete the originals, the results are final.

\b
--json writes one JSON object a line: {"v":1, "t":TIME, "run":ID, "event":KIND, ...}
  run.start, plan          model, used device; number of items and pixels
  item.start, .progress    an item is being read; number of finished tiles, or
                           frames of a video
  item.done, .skip, .fail  result of an item; "code" is for programs
  warning                  a problem that does not stop the run
  run.end                  counts, speed, and "exit", the exit code
With -n, only the plan is written. While "v" is 1, fields may be added but do not
change. The JSON Schema is engine/events.schema.json in the installed package.
"""


@dataclass(frozen=True)
class Selection:
    """Selected images, names of the results, and threads."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    flat: bool
    files_from: str | None
    null: bool
    sample: int | None
    name: str | None
    jobs: int | str | None
    fail_fast: bool

    def listed(self) -> tuple[str, ...] | None:
        """Read the names of `--files-from`; they may be any bytes.

        Raises:
            click.UsageError: The list cannot be read, or `-0` is missing or not allowed.
        """
        place = self.files_from
        if place is None:
            if self.null:
                raise click.UsageError("-0 requires --files-from")
            return None
        try:
            data = sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
        except OSError as error:
            raise click.UsageError(f"--files-from {place}: {error.strerror or error}") from error
        if not self.null and b"\0" in data:
            raise click.UsageError(
                f"--files-from {place}: contains NUL bytes; use -0 for NUL-separated names, or save"
                " the list as UTF-8 lines"
            )
        data = data.removeprefix(codecs.BOM_UTF8)  # written by editors and shells on Windows
        names = data.split(b"\0") if self.null else data.splitlines()
        return tuple(os.fsdecode(name) for name in names if name)

    def request(self, files: tuple[str, ...] | None, preset: str, overwrite: bool) -> BatchRequest:
        """Return the selection for the engine; `files` is the result of `listed`."""
        from varfix.engine.batch.plan import DEFAULT_NAME, BatchRequest
        from varfix.engine.storage.scan import Filters

        return BatchRequest(
            filters=Filters(self.include, self.exclude, recursive=not self.flat),
            files=files,
            name=self.name or DEFAULT_NAME,
            preset=preset,
            overwrite=overwrite,
            sample=self.sample,
        )


_selection = options_record(
    "selection",
    Selection,
    option(
        "Selection",
        "--include",
        multiple=True,
        metavar="GLOB",
        help="Restore only matching images; .gitignore syntax; may be repeated.",
    ),
    option(
        "Selection",
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="Exclude matching images; .gitignore syntax; may be repeated.",
    ),
    option(
        "Selection", "--no-recursive", "flat", is_flag=True, help="Do not descend into subfolders."
    ),
    option(
        "Selection",
        "--files-from",
        metavar="FILE|-",
        help="Restore the images listed in a file or on stdin, one per line. Names are relative to"
        " SRC or to the current folder.",
    ),
    option(
        "Selection",
        "-0",
        "null",
        is_flag=True,
        help="Names in the list are NUL-separated, as written by 'fd -0'.",
    ),
    option(
        "Selection",
        "--sample",
        type=click.IntRange(min=1),
        metavar="N",
        help="Restore only N images, evenly spaced: a preview of the run.",
    ),
    option(
        "Output",
        "--name",
        metavar="TEMPLATE",
        help="Template of the result names, with {dir} {stem} {ext} {preset} {model}."
        "  [default: {dir}{stem}{ext}]",
    ),
    option(
        "Machine",
        "-j",
        "--jobs",
        type=CountOrAuto(),
        metavar="auto|N",
        help="Number of decoder threads; as many encoder threads are started.  [default: auto]",
    ),
    option("Machine", "--fail-fast", is_flag=True, help="Stop at the first image that fails."),
)


def _report_name(
    context: click.Context, parameter: click.Parameter, path: Path | None
) -> Path | None:
    """Reject unknown report formats (click.BadParameter)."""
    if path is not None and path.suffix.lower() not in (".json", ".csv", ".html"):
        raise click.BadParameter(f"the name must end in .html, .csv or .json, got {path.name}")
    return path


@click.command("dir", cls=Command, epilog=_EPILOG)
@click.argument("src", type=FOLDER_IN)
@click.argument("dst", type=FOLDER_OUT, required=False)
@model_options
@_selection
@output_options
@in_place_options
@event_options
@cluster_option
@option(
    "Messages",
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_report_name,
    metavar="FILE",
    help="Write a report of every image to FILE.html, with images before and after, or to"
    " FILE.csv or FILE.json; an existing FILE is replaced.",
)
@terminal_options
def command(  # noqa: PLR0913 (one record for each group of options)
    src: Path | Store,
    dst: Path | Store | None,
    model: ModelOptions,
    selection: Selection,
    output: OutputOptions,
    placing: InPlaceOptions,
    events: EventOptions,
    cluster: str | None,
    report: Path | None,
    terminal: Terminal,
) -> int:
    """Restore every image and video under the folder SRC into the same tree under DST.

    Names, sizes, orientation, color profiles, metadata and file times are kept. Failed images are
    listed at the end and do not stop the run. Inputs are never changed, unless --in-place replaces
    them and keeps the originals. Videos and animations are restored as by 'varfix video', whose
    settings apply; mp4, mov, mkv and webm stay what they are, the others become mkv.

    SRC and DST may be addresses of object storage, such as s3://bucket/folder.
    """
    from varfix.cli.run_session import RunSession

    resolved = model.resolve(terminal, {"output.format": output.format, "io.jobs": selection.jobs})
    placing.check(src, dst, is_cluster=cluster is not None, name=selection.name)
    target = placing.target(src, dst, resolved.settings)
    source = target if placing.in_place else src
    files = selection.listed()
    session = RunSession(resolved.settings, terminal, events, model.label)
    with ExitStack() as stack:
        if cluster is None:
            loaded: LoadedModel[Restorer] = session.load_model()
        else:
            loaded = stack.enter_context(session.on_cluster(cluster))
            # Workers have another current folder.
            source, target = (
                end.absolute() if isinstance(end, Path) else end for end in (source, target)
            )

        from varfix.cli.dry_run import setting_texts, show_plan
        from varfix.cli.report.report import reporting
        from varfix.cli.report.rows import ReportHeader
        from varfix.engine.batch.context import RunOptions
        from varfix.engine.batch.fingerprint import settings_fingerprint
        from varfix.engine.batch.plan import ignored_lines
        from varfix.engine.batch.planner import plan_batch
        from varfix.engine.storage.addresses import display_address
        from varfix.engine.system.display_names import printable

        fingerprint = settings_fingerprint(resolved.settings, loaded.sha256, loaded.restorer.tile)
        request = selection.request(files, model.label, output.overwrite)
        with terminal.busy(f"Scanning {display_address(source)}"):
            plan = plan_batch(source, target, request, resolved.settings, fingerprint)
        for line in ignored_lines(plan.found):
            terminal.detail(line)
        if output.dry_run:
            return show_plan(plan, loaded, resolved, terminal, events)
        heading = ReportHeader(
            source=printable(display_address(source)),
            target=printable(display_address(target)),
            preset=model.label,
            settings=dict(setting_texts(resolved)),
            origins=resolved.origins,
        )
        written = stack.enter_context(reporting(report, heading, terminal.say))
        options = RunOptions(
            "dir",
            loaded.sha256,
            selection.fail_fast,
            session.stop,
            executor=loaded.pool,
            observe=written.add_previews if written else None,
        )
        code = session.run(plan, loaded, options, written)
        placing.announce(src, target, terminal)
        return code
