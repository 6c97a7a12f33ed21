"""`varfix diagnose`: say what is wrong with the images of a folder, and write nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from varfix.cli.folder_argument import FOLDER_IN
from varfix.cli.options import (
    Command,
    EventOptions,
    ModelOptions,
    event_options,
    model_options,
    terminal_options,
)
from varfix.cli.selection import Selection, selection_options
from varfix.cli.terminal import Terminal
from varfix.engine.errors import ExitCode

if TYPE_CHECKING:
    from varfix.engine.storage.store import Store

_EPILOG: Final = """\b
Examples:
  varfix diagnose photos                      a table of every image
  varfix diagnose --sample 100 photos         a first impression of a large folder
  varfix diagnose -p dehaze photos            what 'varfix dir -p dehaze' would treat
  varfix diagnose -q --json photos | jq -r 'select(.applied | index("haze")?).src' |
    varfix dir -p dehaze photos restored --files-from -

\b
The table goes to stdout. It has the probability of each kind of damage in percent;
a * marks what 'varfix dir' would treat with the same options, a dot is less than
10 %. The last line counts the images that would be treated.

\b
--json writes events instead, one JSON object a line, as 'varfix dir' does:
  item.judged   "src", size, "found": probability of each kind, "applied": the kinds
                that would be treated
  item.fail     an image that cannot be read; the exit code is then 1
  run.end       counts; "applied" counts the images by kind
"""


@click.command("diagnose", cls=Command, epilog=_EPILOG)
@click.argument("src", type=FOLDER_IN)
@model_options
@selection_options
@event_options
@terminal_options
def command(
    src: Path | Store,
    model: ModelOptions,
    selection: Selection,
    events: EventOptions,
    terminal: Terminal,
) -> int:
    """Say what is wrong with every image under the folder SRC: noise, rain, haze, darkness.

    Nothing is restored or written: each image is judged by a thumbnail and a few small pieces, in a
    fraction of a second. Videos are left out. SRC may be an address of object storage.
    """
    from varfix.cli.run_session import RunSession

    resolved = model.resolve(terminal, {"io.jobs": selection.jobs})
    files = selection.listed()
    session = RunSession(resolved.settings, terminal, events, model.label)
    loaded = session.load_model()

    from varfix.cli.event_log import Sink
    from varfix.cli.findings_table import FindingsTable
    from varfix.engine.batch.context import RunOptions
    from varfix.engine.batch.diagnosis import JudgingExecutor, check_judges
    from varfix.engine.batch.plan import ignored_lines
    from varfix.engine.batch.planner import plan_diagnosis
    from varfix.engine.storage.addresses import display_address

    check_judges(loaded.restorer)
    with terminal.busy(f"Scanning {display_address(src)}"):
        plan = plan_diagnosis(src, selection.request(files))
    for line in ignored_lines(plan.found):
        terminal.detail(line)
    out = Sink("stdout", sys.stdout.buffer, lambda: session.stop.request(ExitCode.SIGPIPE))
    table = None if events.as_json else FindingsTable(out)
    options = RunOptions(
        "diagnose",
        loaded.sha256,
        selection.fail_fast,
        session.stop,
        executor=JudgingExecutor(loaded.restorer),
    )
    # Moving lines would tear a table on the same terminal.
    shares_terminal = table is not None and sys.stdout.isatty()
    return session.run(plan, loaded, options, table, still=shares_terminal)
