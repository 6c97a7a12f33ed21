"""`varfix models pull` and `rm`: official models in, and models out of, the user's folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from varfix.cli.commands.models_import import ImportJob, Stated
from varfix.cli.completions import model_items
from varfix.cli.missing_extras import require_train_extra
from varfix.cli.options import Command, option, terminal_options
from varfix.cli.terminal import Terminal
from varfix.engine.errors import ConfigError, ModelMissingError
from varfix.engine.models.registry import MODELS

if TYPE_CHECKING:
    from varfix.engine.models.registry import Release
    from varfix.engine.system.download import Progress
    from varfix.onnx.files.installed import SourceFile

_PULL_EPILOG: Final = """\b
Examples:
  varfix models pull varformer-d16
  VARFIX_MIRROR=https://mirror.example varfix models pull varformer-d16

\b
To resume an interrupted download, run the same command again. The SHA-256 of the file is compared
with the checksum reported by the server, and recorded: a later download must be the same file.
"""

_overwrite = option(
    "Output", "--overwrite", is_flag=True, help="Replace the model if it is installed."
)


@click.command("pull", cls=Command, epilog=_PULL_EPILOG)
@click.argument("name", shell_complete=model_items)
@click.option(
    "--mirror",
    default="",
    envvar="VARFIX_MIRROR",
    metavar="URL",
    help="Server with the same paths.  [env: VARFIX_MIRROR]",
)
@click.option(
    "--offline",
    is_flag=True,
    envvar="VARFIX_OFFLINE",
    help="Do not download; print the address.  [env: VARFIX_OFFLINE]",
)
@click.option("--keep", is_flag=True, help="Keep the downloaded checkpoint after converting it.")
@_overwrite
@terminal_options
def pull(
    name: str, mirror: str, offline: bool, keep: bool, overwrite: bool, terminal: Terminal
) -> None:
    """Download the official checkpoint of the model NAME and import it.

    Needs the extra: pip install "varfix[train]".
    """
    from varfix.engine.system.download import mirror_url
    from varfix.onnx.files.installed import check_new, check_same, terms_of
    from varfix.onnx.files.model_files import model_folder

    release = _release(name)
    check_new(name, overwrite)
    urls = [mirror_url(url, mirror) for url in release.urls]
    if offline:
        raise ModelMissingError(
            f"{name}: offline, not downloaded ({', '.join(urls)})",
            hint=f"download it elsewhere and run: varfix models import {name} FILE",
        )
    with terminal.busy("Loading PyTorch"), require_train_extra("models pull"):
        import varfix.onnx.export.architectures  # noqa: F401 (fails before the download)
    terminal.say(f"Terms of use:\n{terms_of(release)}")
    folder = model_folder() / ".downloads" / name
    sources = [_download(url, folder, terminal) for url in urls]
    check_same(name, sources)
    files = [folder / source.name for source in sources]
    stated = Stated(license_=None, terms=None, training="")
    ImportJob(name, files, sources, stated, terminal).convert(release.architecture)
    if keep:
        terminal.say(f"kept: {', '.join(map(str, files))}")
        return
    for path in files:
        path.unlink()


@click.command("rm", cls=Command)
@click.argument("name", shell_complete=model_items)
@terminal_options
def remove(name: str, terminal: Terminal) -> None:
    """Remove a model from the user's model folder; shipped models cannot be removed."""
    from varfix.onnx.files import installed as library

    library.remove(name)
    terminal.say(f"{name}: removed")


def _release(name: str) -> Release:
    entry = MODELS.get(name)
    if entry is not None and entry.release is not None:
        return entry.release
    known = [entry.name for entry in MODELS.values() if entry.release]
    why = "ships with varfix" if name in MODELS else "no known download address"
    raise ConfigError(f"{name}: {why}", hint=f"pull one of {', '.join(known)}")


def _download(url: str, folder: Path, terminal: Terminal) -> SourceFile:
    from varfix.engine.system.download import DownloadRequest, download
    from varfix.onnx.files.installed import SourceFile

    target = folder / url.rpartition("/")[2]
    with _progress(target.name, terminal) as progress:
        digest = download(DownloadRequest(url, target), progress)
    terminal.say(f"{target.name}: sha256 {digest}")
    return SourceFile(target.name, target.stat().st_size, digest, url)


@contextmanager
def _progress(name: str, terminal: Terminal) -> Iterator[Progress]:
    """Show the progress of a download: a bar on a terminal, else a line every 10 %."""
    if terminal.animated:
        with _bar(name, terminal) as progress:
            yield progress
        return
    printed = [-1]

    def show(done: int, size: int | None) -> None:
        tenth = 10 * done // size if size else done >> 28
        if tenth > printed[0]:
            printed[0] = tenth
            whole = f" of {size / 1e6:.0f}" if size else ""
            terminal.say(f"{name}: {done / 1e6:.0f}{whole} MB")

    yield show


@contextmanager
def _bar(name: str, terminal: Terminal) -> Iterator[Progress]:
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = terminal.console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    bar = Progress(*columns, TransferSpeedColumn(), TimeRemainingColumn(), console=console)
    with terminal.owned_by(console), bar:
        task = bar.add_task(name, total=None)
        yield lambda done, size: bar.update(task, completed=done, total=size)
