"""`varfix export-onnx`: a thin door to `varfix.onnx.export`."""

from __future__ import annotations

from pathlib import Path

import click

from varfix.cli.extras import needing_train_extra
from varfix.cli.options import Command, terminal_options
from varfix.cli.terminal import Terminal

_EPILOG = """\b
Examples:
  varfix export-onnx runs/first/weights.safetensors first.onnx
  varfix dir -m first.onnx photos restored
"""


@click.command("export-onnx", cls=Command, epilog=_EPILOG)
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--training",
    default="",
    metavar="TEXT",
    help="What the weights were trained on, for the model card.",
)
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")
@terminal_options
def command(
    checkpoint: Path, target: Path, training: str, overwrite: bool, terminal: Terminal
) -> None:
    """Export the weights CHECKPOINT to the model file TARGET (NAME.onnx).

    A model guided by the whole picture gets a second file beside it, NAME.prior.onnx. Both carry
    the model card and are compared with the network after writing. Needs the extra: pip install
    "varfix[train]".
    """
    _check_target(target, overwrite)
    with terminal.busy("Loading PyTorch"), needing_train_extra("export-onnx"):
        from varfix.onnx.export import export_checkpoint
    with terminal.busy(f"Exporting {target.name}"):
        export_checkpoint(checkpoint, target, training)
    terminal.say(f"{target}: exported and checked against the network.")


def _check_target(target: Path, overwrite: bool) -> None:
    if target.suffix != ".onnx":
        raise click.UsageError(f"TARGET must end in .onnx, got {target}")
    if target.exists() and not overwrite:
        raise click.UsageError(f"{target} exists; use --overwrite to replace it")
