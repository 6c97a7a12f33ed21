"""`varfix models`: list, show and verify models."""

from __future__ import annotations

import sys
from typing import Any

import click
import msgspec

from varfix.cli.commands.models_import import import_model
from varfix.cli.commands.models_install import pull, remove
from varfix.cli.completions import model_items
from varfix.cli.options import Command, option, terminal_options
from varfix.cli.terminal import Terminal, join_hint
from varfix.engine.errors import ExitCode, ModelError
from varfix.engine.models.card import ModelCard
from varfix.engine.models.registry import MODELS, ModelEntry

_json = option("Messages", "--json", "as_json", is_flag=True, help="Print JSON instead of a table.")

_EPILOG = """\b
Examples:
  varfix models                        names for --model
  varfix models show varformer-s       its card: tasks, tile, license, training
  varfix models verify mine.onnx       check the checksum
  varfix models pull varformer-d16     download the official VarFormer
  varfix models import varformer-d16 net_g_last.pth      from a downloaded file
  varfix models import nafnet NAFNet-SIDD-width32.pth    a published network
"""


@click.group("models", invoke_without_command=True, epilog=_EPILOG)
@click.pass_context
def command(context: click.Context) -> object:
    """List, show, verify, download and convert restoration models.

    The option --model takes one of these names, or the path of any .onnx file.
    """
    return context.invoke(list_models) if context.invoked_subcommand is None else None


for _command in (import_model, pull, remove):
    command.add_command(_command)


@command.command("list", cls=Command)
@_json
def list_models(as_json: bool = False) -> None:
    """List the named models."""
    from varfix.onnx.files.model_files import imported_names

    rows = [_row(entry) for entry in _entries(imported_names())]
    if as_json:
        click.echo(msgspec.json.encode(rows))
        return
    for row in rows:
        state = "installed" if row["installed"] else "not installed"
        state = "damaged" if row["damaged"] else state
        terms = f"  [{row['license']}]" if row["license"] else ""
        use = "  NONCOMMERCIAL USE ONLY" if row["noncommercial"] else ""
        click.echo(f"{row['name']:16}  {state:13}  {row['summary']}{terms}{use}")


@command.command("show", cls=Command)
@click.argument("model", metavar="NAME|PATH", shell_complete=model_items)
@_json
def show(model: str, as_json: bool) -> None:
    """Show the card of a model: tasks, tiling, license and training."""
    from varfix.onnx.files.card import read_card
    from varfix.onnx.files.model_files import find_model

    found = find_model(model)
    card = read_card(found.restore)
    if as_json:
        click.echo(msgspec.json.encode(card))
        return
    fields = [("file", str(found.restore)), *_fields(card)]
    width = max(len(name) for name, _ in fields)
    for name, text in fields:
        click.echo(f"{name:{width}}  {text}")


@command.command("verify", cls=Command)
@click.argument("models", metavar="[NAME|PATH]...", nargs=-1, shell_complete=model_items)
@terminal_options
def verify(models: tuple[str, ...], terminal: Terminal) -> int:
    """Verify the checksums of model files.

    Without arguments, every shipped and imported model is verified. Exit code 4 if a file is
    missing, damaged, or belongs to another model.
    """
    from varfix.onnx.files.card import verify_model
    from varfix.onnx.files.model_files import find_model

    code = ExitCode.OK
    for model in models or _installed():
        try:
            card = verify_model(find_model(model).restore)
            click.echo(f"{model}: ok, sha256 {card.sha256}")
        except ModelError as error:
            sys.stdout.flush()
            terminal.error(join_hint(error.message, error.hint))
            code = error.exit_code
    return code


def _row(entry: ModelEntry) -> dict[str, Any]:
    """Return a row of the list; those of the card if it is installed."""
    from varfix.onnx.files.card import read_card
    from varfix.onnx.files.model_files import find_model, is_imported

    row: dict[str, Any] = {"name": entry.name, "installed": False, "damaged": False}
    row |= {"summary": entry.summary, "license": "", "noncommercial": False}
    try:
        card = read_card(find_model(entry.name).restore)
    except ModelError:
        damaged = entry.release is None or is_imported(entry.name)
        return row | {"damaged": damaged}
    if card.network:
        row["summary"] = f"{entry.summary}: {card.network}"
    return row | {
        "installed": True,
        "license": card.licence,
        "noncommercial": card.noncommercial,
    }


def _entries(imported: list[str]) -> list[ModelEntry]:
    """Return every model with a name, imported models last."""
    named = [ModelEntry(name, (), "imported") for name in imported if name not in MODELS]
    return [*MODELS.values(), *named]


def _installed() -> list[str]:
    from varfix.onnx.files.model_files import imported_names

    shipped = [entry.name for entry in MODELS.values() if entry.release is None]
    return [*shipped, *imported_names()]


def _fields(card: ModelCard) -> list[tuple[str, str]]:
    """Return the fields of the card as text, without empty fields."""
    stored = msgspec.structs.asdict(card)
    fields = {"license" if name == "licence" else name: value for name, value in stored.items()}
    fields["tasks"] = ", ".join(card.tasks)
    fields["levels"] = ", ".join(card.levels)
    fields["unrolled"] = ""  # internal
    fields["vram_mb"] = ", ".join(f"{mb} at batch {n}" for n, mb in card.vram_mb.items())
    return [(name, str(value)) for name, value in fields.items() if value not in ("", 0)]
