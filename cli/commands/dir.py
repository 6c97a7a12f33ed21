"""`varfix dir`: restore a folder tree."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from varfix.cli.cluster_option import cluster_option
from varfix.cli.folder_argument import FOLDER_IN, FOLDER_OUT
from varfix.cli.in_place_option import InPlaceOptions, in_place_options
from varfix.cli.options import (
    Command,
    EventOptions,
    ModelOptions,
    OutputOptions,
    event_options,
    model_options,
    option,
    output_options,
    terminal_options,
)
from varfix.cli.selection import Selection, selection_options
from varfix.cli.terminal import Terminal

if TYPE_CHECKING:
    from varfix.cli.run_session import LoadedModel
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
@selection_options
@option(
    "Output",
    "--name",
    metavar="TEMPLATE",
    help="Template of the result names, with {dir} {stem} {ext} {preset} {model}."
    "  [default: {dir}{stem}{ext}]",
)
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
    name: str | None,
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
    placing.check(src, dst, is_cluster=cluster is not None, name=name)
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
        from varfix.engine.batch.plan import DEFAULT_NAME, ignored_lines
        from varfix.engine.batch.planner import plan_batch
        from varfix.engine.storage.addresses import display_address
        from varfix.engine.system.display_names import printable

        fingerprint = settings_fingerprint(resolved.settings, loaded.sha256, loaded.restorer.tile)
        request = selection.request(
            files, name=name or DEFAULT_NAME, preset=model.label, overwrite=output.overwrite
        )
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
