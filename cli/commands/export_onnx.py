"""`varfix export-onnx`: a thin door to `varfix.onnx.export.varformer_s`."""

from __future__ import annotations

from pathlib import Path

import click

from varfix.cli.missing_extras import needing_train_extra
from varfix.cli.options import Command, terminal_options
from varfix.cli.terminal import Terminal

_EPILOG = """\b
Examples:
  varfix export-onnx runs/first/weights.safetensors first.onnx
  varfix dir -m first.onnx photos restored
  varfix export-onnx net_g_last.pth varformer-d16.onnx      the released VarFormer
  varfix export-onnx restorevar.pth vae_restorevar.ckpt restorevar-d16.onnx
  varfix export-onnx --int8 photos first.onnx first.int8.onnx     only the twin for CPUs
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
    help="Which network it is: varformer-s, varformer, restorevar.  [default: by the files]",
)
@click.option(
    "--licence",
    default="LicenseRef-unstated",
    metavar="SPDX",
    help="Licence of the weights of a released network, for the model card.",
)
@click.option(
    "--training",
    default="",
    metavar="TEXT",
    help="What the weights were trained on, for the model card.",
)
@click.option(
    "--int8",
    metavar="PHOTOS",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Of a VarFormer-S, also write NAME.int8.onnx, which --precision int8 runs; ranges are"
    " learned from a folder of photographs.",
)
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")
@terminal_options
def command(  # noqa: PLR0913 (as many as there are facts about a model)
    checkpoints: tuple[Path, ...],
    target: Path,
    arch: str,
    licence: str,
    training: str,
    int8: Path | None,
    overwrite: bool,
    terminal: Terminal,
) -> None:
    """Export the weights CHECKPOINT to the model file TARGET (NAME.onnx).

    Weights are those of 'varfix train', or a checkpoint that others released; of it, nothing is
    executed. A model guided by the whole image gets a second file beside it, NAME.prior.onnx; a
    released one gets its weights (NAME.onnx.data), the same in half precision (NAME.fp16.onnx) and
    a decoder for images of its prior. All carry the model card and are compared with the network
    after writing. Needs the extra: pip install "varfix[train]".
    """
    _check_target(target, overwrite)
    exported = [path for path in checkpoints if path.suffix == ".onnx"]
    if exported:
        _only_int8(checkpoints, target, int8, terminal)
        return
    with terminal.busy("Loading PyTorch"), needing_train_extra("export-onnx"):
        from varfix.onnx.export.architectures import CardFields, export_model
    with terminal.busy(f"Exporting {target.name}"):
        export_model(arch, checkpoints, target, CardFields(training=training, licence=licence))
    terminal.say(f"{target}: exported and checked against the network.")
    if int8 is not None:
        _write_int8(target, int8, terminal)


def _only_int8(
    checkpoints: tuple[Path, ...], target: Path, photos: Path | None, terminal: Terminal
) -> None:
    """Write the integer twin of a model that is exported already (click.UsageError)."""
    with needing_train_extra("export-onnx"):
        from varfix.onnx.files.card import int8_path
    if photos is None or len(checkpoints) != 1 or target != int8_path(checkpoints[0]):
        raise click.UsageError(
            "of an exported model only its twin can be written: --int8 PHOTOS NAME.onnx"
            " NAME.int8.onnx"
        )
    _write_int8(checkpoints[0], photos, terminal)


def _write_int8(model: Path, photos: Path, terminal: Terminal) -> None:
    with terminal.busy("Learning ranges"), needing_train_extra("export-onnx"):
        from varfix.onnx.export.int8 import export_int8

        distance = export_int8(model, photos)
    terminal.say(
        f"{model.stem}.int8.onnx: written; differs by {255.0 * distance:.2f} of 255 (root mean"
        " square)."
    )


def _check_target(target: Path, overwrite: bool) -> None:
    if target.suffix != ".onnx":
        raise click.UsageError(f"TARGET must end in .onnx, got {target}")
    if target.exists() and not overwrite:
        raise click.UsageError(f"{target} exists; use --overwrite to replace it")
