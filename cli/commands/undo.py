"""`varfix undo`: bring the originals back that `varfix dir --in-place` has kept."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from varfix.cli.folder_argument import FOLDER_IN
from varfix.cli.options import Command, option, terminal_options
from varfix.cli.signals import handle_signals
from varfix.cli.terminal import Terminal, join_hint
from varfix.engine.errors import ExitCode, NothingToDoError, VarfixError
from varfix.engine.system.counts import counted

if TYPE_CHECKING:
    from varfix.engine.storage.originals import Originals
    from varfix.engine.storage.store import Store
    from varfix.engine.storage.undo import UndoRun

_EPILOG: Final = """\b
Examples:
  varfix dir --in-place photos                  originals: photos/.varfix/originals
  varfix undo photos                            every original is back
  varfix dir --in-place --backup kept photos    originals: kept
  varfix undo --backup kept photos

\b
An original comes back byte for byte, with its times and mode. An image that was
changed after varfix restored it is named and left alone, unless --overwrite is
given. To resume an interrupted undo, run the same command again.
"""


@click.command("undo", cls=Command, epilog=_EPILOG)
@click.argument("folder", metavar="DIR", type=FOLDER_IN)
@option(
    "Output",
    "--backup",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Folder of the originals, as given to 'varfix dir'.  [default: DIR/.varfix/originals]",
)
@option(
    "Output",
    "--overwrite",
    is_flag=True,
    help="Also replace images that were changed after varfix restored them.",
)
@option("Output", "-n", "--dry-run", is_flag=True, help="Show what would be done, and exit.")
@terminal_options
def command(
    folder: Path | Store, backup: Path | None, overwrite: bool, dry_run: bool, terminal: Terminal
) -> int:
    """Bring back the originals of the images that 'varfix dir --in-place DIR' replaced."""
    from varfix.engine.batch.stop import StopRequest
    from varfix.engine.storage.originals import Originals
    from varfix.engine.storage.undo import UndoRun

    if not isinstance(folder, Path):
        raise click.UsageError("DIR must be a folder on a disk: objects are not replaced")
    originals = Originals(folder, backup)
    if backup is None:
        originals.check_folder()
    names = originals.names()
    if not names:
        raise NothingToDoError(f"{originals.folder} has no originals of images in {folder}")
    if dry_run:
        return _show(originals, names, overwrite)

    def report(name: str, error: VarfixError) -> None:
        terminal.error(join_hint(f"{folder / name}: {error.message}", error.hint))

    stop = StopRequest()
    run = UndoRun(originals, overwrite, report, stop.is_set)
    with ExitStack() as stack:
        say = terminal.say
        stack.enter_context(handle_signals(stop, say, lambda: _summary(run), lambda: None))
        stack.enter_context(terminal.busy(f"Bringing back {counted(len(names), 'original')}"))
        run.run()
    terminal.say(_summary(run))
    if stop.code is not None:
        return stop.code
    return ExitCode.PARTIAL if run.changed or run.failed else ExitCode.OK


def _show(originals: Originals, names: list[str], overwrite: bool) -> int:
    """Print what would be done; return the exit code."""
    from varfix.engine.storage.undo import changed_names
    from varfix.engine.system.display_names import single_line

    changed = set() if overwrite else set(changed_names(originals, names))
    for name in names:
        left = ": changed, left alone" if name in changed else ""
        click.echo(f"{single_line(name)}{left}")
    count = counted(len(names) - len(changed), "original")
    click.echo(f"{count} to bring back, {len(changed)} left alone")
    return ExitCode.OK


def _summary(run: UndoRun) -> str:
    counts = {
        f"{counted(run.done, 'original')} brought back": run.done,
        f"{counted(run.changed, 'changed image')} left alone": run.changed,
        f"{run.failed} failed": run.failed,
    }
    return ", ".join(text for text, count in counts.items() if count) or "nothing done"
