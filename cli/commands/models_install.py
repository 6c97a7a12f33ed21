"""`varfix models import`, `pull` and `rm`: official and own models in the user's model folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from varfix.cli.completions import model_items
from varfix.cli.missing_extras import require_train_extra
from varfix.cli.options import Command, HiddenAliases, option, terminal_options
from varfix.cli.terminal import Terminal
from varfix.engine.errors import ConfigError, ModelMissingError
from varfix.engine.models.registry import MODELS

if TYPE_CHECKING:
    from varfix.engine.models.registry import Release
    from varfix.engine.system.download import Progress
    from varfix.onnx.files.installed import SourceFile

_NO_TERMS: Final = "The terms of use of this model are unknown.\n"
_UNSTATED: Final = "LicenseRef-unstated"
_IMPORT_EPILOG: Final = """\b
Examples:
  varfix models import varformer-d16 net_g_last.pth
  varfix dir -m varformer-d16 photos restored
  varfix models import mine my_finetuned.pth --license MIT --training "my own rain"
"""
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


@click.command("import", cls=Command, epilog=_IMPORT_EPILOG)
@click.argument("name")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--arch",
    default="auto",
    metavar="NAME",
    help="Network.  [default: from NAME, else from the files]",
)
@click.option(
    "--license",
    "--licence",
    "license_",
    metavar="SPDX",
    cls=HiddenAliases,
    help="License of the weights, for the model card.",
)
@click.option(
    "--terms",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="License text, stored with the model.",
)
@click.option(
    "--training",
    default="",
    metavar="TEXT",
    help="Training data of the weights, for the model card.",
)
@_overwrite
@terminal_options
def import_model(  # noqa: PLR0913 (one parameter for each option)
    name: str,
    files: tuple[Path, ...],
    arch: str,
    license_: str | None,
    terms: Path | None,
    training: str,
    overwrite: bool,
    terminal: Terminal,
) -> None:
    """Convert the checkpoint FILE to a model that --model accepts as NAME.

    The weights are exported, compared with their network, and stored in the user's model folder
    with their card and license. Nothing in FILE is executed. Needs the
    extra: pip install "varfix[train]".
    """
    from varfix.onnx.files.installed import check_name, check_new, source_files

    check_name(name)
    check_new(name, overwrite)
    with terminal.busy("Reading the checkpoint"):
        sources = source_files(files)
    release = _released_as(name)
    given = license_ or (release.licence if release else None)
    fields = {"training": training, "licence": given}
    text = terms.read_text(encoding="utf-8") if terms else None
    _convert(name, files, sources, (arch, fields, text), terminal)


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
    fields: dict[str, str | None] = {"licence": release.licence}
    _convert(name, files, sources, (release.architecture, fields, None), terminal)
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

    library.check_name(name)
    library.remove(name)
    terminal.say(f"{name}: removed")


def _released_as(name: str) -> Release | None:
    entry = MODELS.get(name)
    return entry.release if entry else None


def _release(name: str) -> Release:
    release = _released_as(name)
    if release is not None:
        return release
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


def _convert(
    name: str,
    files: Sequence[Path],
    sources: Sequence[SourceFile],
    wanted: tuple[str, dict[str, str | None], str | None],
    terminal: Terminal,
) -> None:
    """Export checkpoint files to the model folder; `wanted` is architecture, fields and terms."""
    from varfix.onnx.files.installed import install, origin_of, terms_of

    with terminal.busy("Loading PyTorch"), require_train_extra("models import"):
        from varfix.onnx.export.architectures import CardFields, architecture_named, export_model
    arch, given, terms = wanted
    release = _released_as(name)
    arch = architecture_named(release.architecture if release and arch == "auto" else arch, files)
    fields = CardFields(
        training=given.get("training") or "",
        licence=given.get("licence") or _UNSTATED,
        depth=release.depth if release else None,
    )
    text = terms or (terms_of(release) if release else _NO_TERMS)
    origin = origin_of(arch, tuple(sources))
    with terminal.busy(f"Converting {', '.join(path.name for path in files)}; takes minutes"):
        installed = install(
            name, origin, text, lambda target: export_model(arch, files, target, fields)
        )
    terminal.say(f"{name}: installed in {installed.restore.parent}, verified against the network")
