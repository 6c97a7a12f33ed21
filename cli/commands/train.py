"""`varfix train`: training with `varfix.engine.train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from varfix.cli.missing_extras import require_train_extra
from varfix.cli.options import Command, options_record, terminal_options
from varfix.cli.terminal import Terminal
from varfix.engine.train.request import TrainRequest

_EPILOG = """\b
Examples:
  varfix train --photos photos --out runs/first
  varfix train --photos photos --out runs/first             resumes an interrupted run
  varfix train my.yaml --photos photos --out runs/long --set restorer.steps=60000
  varfix train --init varformer-s.onnx --set vqvae.steps=0 --set prior.steps=0 \\
      --photos photos --pairs mine/damaged mine/good --out runs/tuned
  varfix train curves runs/long
  varfix export-onnx runs/first/weights.safetensors first.onnx

\b
Also:
  varfix train preview   one contact sheet for each degradation
  varfix train curves    learning curves of a run, as an image
  varfix train ablate    contribution of each part of a model
"""
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class RunByDefaultGroup(click.Group):
    """A group whose default command is `run`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `run` unless the first word is the name of a command."""
        named = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args if named else ["run", *args])


class _DefaultContext(click.Context):
    """The context of a command that is called without its name."""

    @property
    def command_path(self) -> str:
        """The words of the group, without the name of the command."""
        return self.parent.command_path if self.parent is not None else ""


class _DefaultCommand(Command):
    """The command of a group that is called without a command name."""

    context_class = _DefaultContext


command = RunByDefaultGroup("train")


def _pair_or_none(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Return the folders of pairs, or None without the option."""
    return value or None


@command.command("run", cls=_DefaultCommand, epilog=_EPILOG)
@options_record(
    "job",
    TrainRequest,
    click.argument(
        "config",
        metavar="[RECIPE]",
        required=False,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
    ),
    click.option(
        "--photos",
        multiple=True,
        metavar="DIR",
        type=_FOLDER,
        help="Folder of clean images; may be repeated.",
    ),
    click.option(
        "--pairs",
        nargs=2,
        metavar="INPUT TARGET",
        type=_FOLDER,
        callback=_pair_or_none,
        help="Folders of degraded and clean images with the same names.",
    ),
    click.option(
        "--out",
        required=True,
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of the run: state, metrics, samples, and finally weights.safetensors.",
    ),
    click.option(
        "--init",
        "initial",
        multiple=True,
        metavar="FILE|DIR",
        type=click.Path(exists=True, path_type=Path),
        help="Start from the weights of a .safetensors file, an exported .onnx model, an official"
        " checkpoint, or a folder of official VAR checkpoints. Files that a run with --minutes left"
        " hold a part of the network; give them after a complete one.",
    ),
    click.option(
        "--devices",
        type=click.IntRange(min=1),
        help="Number of GPUs.  [default: all]",
    ),
    click.option(
        "--minutes",
        type=click.FloatRange(min=0.0, min_open=True),
        help="Train for this long, all sessions together, instead of the recipe's steps.",
    ),
    click.option("--compile", is_flag=True, help="Compile the network; faster on a GPU."),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a value of the recipe; may be repeated.",
    ),
)
@terminal_options
def run(job: TrainRequest, terminal: Terminal) -> None:
    """Train a restoration network on clean images with synthetic degradations.

    RECIPE is a YAML file; the default is the recipe of the shipped model. To resume an interrupted
    run, run the same command again. Uses a GPU if there is one. Needs the extra: pip install
    "varfix[train]".
    """
    with terminal.busy("Loading PyTorch"), require_train_extra("train"):
        from varfix.engine.train.loop import run_training
    run_training(job, terminal.warn)
    weights = job.out / "weights.safetensors"
    terminal.say(f"finished; export the model with: varfix export-onnx {weights} NAME.onnx")


@command.command("preview", cls=Command)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--photos",
    multiple=True,
    required=True,
    metavar="DIR",
    type=_FOLDER,
    help="Folder of clean images.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of crops and degradations.")
@terminal_options
def preview(out: Path, photos: tuple[Path, ...], seed: int, terminal: Terminal) -> None:
    """Write a contact sheet for each degradation to the folder OUT, from mild to strong.

    The numbers are PSNR against the clean image. The strengths are those of training.
    """
    with terminal.busy("Loading PyTorch"), require_train_extra("train preview"):
        from varfix.engine.train.data.photos import load_photos
        from varfix.engine.train.logs.degradation_preview import write_previews
    for path in write_previews(load_photos(photos), out, seed):
        terminal.say(str(path))


@command.command("curves", cls=Command)
@click.argument("folder", metavar="RUN", type=_FOLDER)
@terminal_options
def curves(folder: Path, terminal: Terminal) -> None:
    """Draw RUN/curves.png from the metrics of a run. Training also does this regularly."""
    with require_train_extra("train curves"):
        from varfix.engine.train.logs.curves import draw_curves

        draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    terminal.say(str(folder / "curves.png"))


@command.command("ablate", cls=Command)
@click.argument("weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option(
    "--only", multiple=True, metavar="SET", help="Measure only this folder; may be repeated."
)
@click.option(
    "--sample",
    metavar="N",
    type=click.IntRange(min=1),
    help="Measure N evenly spaced images of each set.",
)
@terminal_options
def ablate(
    weights: Path, folder: Path, only: tuple[str, ...], sample: int | None, terminal: Terminal
) -> None:
    """Measure the contribution of each part of a VarFormer-S by disabling one at a time.

    DIR holds test sets, as for varfix eval --all. Prints a Markdown table of PSNR with the preset
    auto, and after a slash with the preset of the task.
    """
    with terminal.busy("Loading PyTorch"), require_train_extra("train ablate"):
        from varfix.engine.evaluation.test_sets import BenchmarkFilter
        from varfix.engine.train.ablation import run_ablations, table
    done = []
    for ablation in run_ablations(weights, folder, BenchmarkFilter(only, sample)):
        terminal.say(f"{ablation.name}: done")
        done.append(ablation)
    click.echo(table(done))
