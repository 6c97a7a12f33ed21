"""`varfix export-onnx`: exports checkpoints with `varfix.onnx.export.architectures`."""

from __future__ import annotations

from pathlib import Path

import click

from varfix.cli.missing_extras import require_train_extra
from varfix.cli.options import Command, HiddenAliases, option, terminal_options
from varfix.cli.terminal import Terminal

_EPILOG = """\b
Examples:
  varfix export-onnx runs/first/weights.safetensors first.onnx
  varfix dir -m first.onnx photos restored
  varfix export-onnx net_g_last.pth varformer-d16.onnx      the official VarFormer
  varfix export-onnx restorevar.pth vae_restorevar.ckpt restorevar-d16.onnx
  varfix export-onnx --int8 photos first.onnx first.int8.onnx     only the int8 variant
"""


@click.command("export-onnx", cls=Command, epilog=_EPILOG)
@click.argument(
    "checkpoints",
    metavar="CHECKPOINT",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--arch",
    default="auto",
    metavar="NAME",
    help="Network: varformer-s, specialist, varformer, restorevar.  [default: from the files]",
)
@click.option(
    "--license",
    "--licence",
    "license_",
    default="LicenseRef-unstated",
    metavar="SPDX",
    cls=HiddenAliases,
    help="License of the weights of an official network, for the model card.",
)
@click.option(
    "--training",
    default="",
    metavar="TEXT",
    help="Training data of the weights, for the model card.",
)
@click.option(
    "--int8",
    metavar="IMAGES",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="For VarFormer-S: also write NAME.int8.onnx for --precision int8, calibrated on a folder"
    " of images.",
)
@option("Output", "--overwrite", is_flag=True, help="Replace TARGET if it exists.")
@terminal_options
def command(  # noqa: PLR0913 (one parameter for each option)
    checkpoints: tuple[Path, ...],
    target: Path,
    arch: str,
    license_: str,
    training: str,
    int8: Path | None,
    overwrite: bool,
    terminal: Terminal,
) -> None:
    """Export the weights CHECKPOINT to the model file TARGET (NAME.onnx).

    CHECKPOINT is written by 'varfix train', or is an official checkpoint. Nothing in it is
    executed. A model with a prior on the whole image gets a second file, NAME.prior.onnx. An
    official model gets a file of weights (NAME.onnx.data), an fp16 variant (NAME.fp16.onnx) and a
    decoder of its prior. All files carry the model card and are compared with the network after
    export. Needs the extra: pip install "varfix[train]".
    """
    _check_target(target, overwrite)
    exported = [path for path in checkpoints if path.suffix == ".onnx"]
    if exported:
        _only_int8(checkpoints, target, int8, terminal)
        return
    with terminal.busy("Loading PyTorch"), require_train_extra("export-onnx"):
        from varfix.onnx.export.architectures import CardFields, export_model
    with terminal.busy(f"Exporting {target.name}"):
        export_model(arch, checkpoints, target, CardFields(training=training, licence=license_))
    terminal.say(f"{target}: exported and verified against the network")
    if int8 is not None:
        _write_int8(target, int8, terminal)


def _only_int8(
    checkpoints: tuple[Path, ...], target: Path, photos: Path | None, terminal: Terminal
) -> None:
    """Write the int8 variant of an exported model (click.UsageError)."""
    with require_train_extra("export-onnx"):
        from varfix.onnx.files.card import int8_path
    if photos is None or len(checkpoints) != 1 or target != int8_path(checkpoints[0]):
        raise click.UsageError(
            "an .onnx input can only be quantized: varfix export-onnx --int8 IMAGES NAME.onnx"
            " NAME.int8.onnx"
        )
    _write_int8(checkpoints[0], photos, terminal)


def _write_int8(model: Path, photos: Path, terminal: Terminal) -> None:
    with terminal.busy("Calibrating int8 ranges"), require_train_extra("export-onnx"):
        from varfix.onnx.export.int8 import export_int8

        distance = export_int8(model, photos)
    terminal.say(
        f"{model.stem}.int8.onnx: written; differs by {255.0 * distance:.2f} of 255 (root mean"
        " square)"
    )


def _check_target(target: Path, overwrite: bool) -> None:
    if target.suffix != ".onnx":
        raise click.UsageError(f"TARGET must end in .onnx, got {target}")
    if target.exists() and not overwrite:
        raise click.UsageError(f"{target} exists; use --overwrite to replace it")
