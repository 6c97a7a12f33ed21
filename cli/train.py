"""`varfix train`: a thin door to `varfix.engine.train`."""

from __future__ import annotations

from pathlib import Path

import click

from varfix.cli.extras import needing_train_extra
from varfix.cli.options import Command, terminal_options
from varfix.cli.terminal import Terminal

_EPILOG = """\b
Examples:
  varfix train --photos photos --out runs/first
  varfix train --photos photos --out runs/first             goes on where it was stopped
  varfix train my.yaml --photos photos --out runs/long --set restorer.steps=60000
  varfix export-onnx runs/first/weights.safetensors first.onnx
"""


@click.command("train", cls=Command, epilog=_EPILOG)
@click.argument(
    "recipe", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--photos",
    multiple=True,
    required=True,
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of clean photographs; may be repeated.",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run: state, metrics and finally weights.safetensors.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a key of the recipe; may be repeated.",
)
@terminal_options
def command(
    recipe: Path | None,
    photos: tuple[Path, ...],
    out: Path,
    assignments: tuple[str, ...],
    terminal: Terminal,
) -> None:
    """Train a restoration network on clean photographs, which it damages by itself.

    RECIPE is a YAML file; without it, the recipe of the model that ships with varfix is used. The
    same command resumes a stopped run. Uses a GPU if there is one. Needs the extra: pip install
    "varfix[train]".
    """
    with terminal.busy("Loading PyTorch"), needing_train_extra("train"):
        from varfix.engine.train.loop import run_training
    run_training(str(recipe) if recipe else None, photos, out, list(assignments))
    terminal.say(f"Trained. Turn it into a model: varfix export-onnx {out / 'weights.safetensors'}")
