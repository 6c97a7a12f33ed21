"""`varfix train`: a thin door to `varfix.engine.train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from varfix.cli.missing_extras import needing_train_extra
from varfix.cli.options import Command, packed, terminal_options
from varfix.cli.terminal import Terminal
from varfix.engine.train.request import Job

_EPILOG = """\b
Examples:
  varfix train --photos photos --out runs/first
  varfix train --photos photos --out runs/first             goes on where it was stopped
  varfix train my.yaml --photos photos --out runs/long --set restorer.steps=60000
  varfix train --init varformer-s.onnx --set vqvae.steps=0 --set prior.steps=0 \\
      --photos photos --pairs mine/damaged mine/good --out runs/tuned
  varfix train curves runs/long
  varfix export-onnx runs/first/weights.safetensors first.onnx

\b
Also:
  varfix train preview   one contact sheet for each kind of damage
  varfix train curves    the curves of a run, as an image
  varfix train ablate    what a model's parts are worth
"""
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class RunUnlessNamed(click.Group):
    """A group that trains unless the first word is one of its other commands."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the command that trains in front of anything else."""
        named = bool(args) and args[0] in self.commands
        return super().parse_args(ctx, args if named else ["run", *args])


class _Nameless(click.Context):
    """The context of a command whose name people need not know."""

    @property
    def command_path(self) -> str:
        """The words before the command's own arguments: those of its group."""
        return self.parent.command_path if self.parent is not None else ""


class _Unnamed(Command):
    """A command that is meant when its group is called without a name."""

    context_class = _Nameless


command = RunUnlessNamed("train")


def _one_or_none(context: click.Context, option: click.Parameter, value: Any) -> Any:
    """Folders of pairs, which an option that is left out has none of."""
    return value or None


@command.command("run", cls=_Unnamed, epilog=_EPILOG)
@packed(
    "job",
    Job,
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
        help="Folder of clean photographs; may be repeated.",
    ),
    click.option(
        "--pairs",
        nargs=2,
        metavar="INPUT TARGET",
        type=_FOLDER,
        callback=_one_or_none,
        help="Folders of your own damaged and good images, of the same names.",
    ),
    click.option(
        "--out",
        required=True,
        metavar="DIR",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of the run: state, metrics, sheets and finally weights.safetensors.",
    ),
    click.option(
        "--init",
        "initial",
        multiple=True,
        metavar="FILE|DIR",
        type=click.Path(exists=True, path_type=Path),
        help="Begin with the weights of a .safetensors file, an exported .onnx model, a public"
        " checkpoint, or a folder of VAR's public checkpoints. Files that a run with --minutes"
        " left hold parts of a network: name them after a whole one.",
    ),
    click.option(
        "--devices",
        type=click.IntRange(min=1),
        help="How many GPUs; without the option, all of them.",
    ),
    click.option(
        "--minutes",
        type=click.FloatRange(min=0.0, min_open=True),
        help="Train for this long, all sessions together, instead of the recipe's steps.",
    ),
    click.option("--compile", is_flag=True, help="Compile the network; worth it on a GPU."),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Change a key of the recipe; may be repeated.",
    ),
)
@terminal_options
def run(job: Job, terminal: Terminal) -> None:
    """Train a restoration network on clean photographs, which it damages by itself.

    RECIPE is a YAML file; without it, the recipe of the model that ships with varfix is used. The
    same command resumes a stopped run. Uses a GPU if there is one. Needs the extra: pip install
    "varfix[train]".
    """
    with terminal.busy("Loading PyTorch"), needing_train_extra("train"):
        from varfix.engine.train.loop import run_training
    run_training(job)
    weights = job.out / "weights.safetensors"
    terminal.say(f"Trained. Turn it into a model: varfix export-onnx {weights}")


@command.command("preview", cls=Command)
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--photos", multiple=True, required=True, metavar="DIR", type=_FOLDER, help="Clean photographs."
)
@click.option("--seed", default=0, show_default=True, help="Of cuts and damage.")
@terminal_options
def preview(out: Path, photos: tuple[Path, ...], seed: int, terminal: Terminal) -> None:
    """Write a contact sheet for each kind of damage to the folder OUT, mild to bad.

    The numbers are PSNR against the clean image. The strengths are those that training uses.
    """
    with terminal.busy("Loading PyTorch"), needing_train_extra("train preview"):
        from varfix.engine.train.data.photos import load_photos
        from varfix.engine.train.logs.degradation_preview import write_previews
    for path in write_previews(load_photos(photos), out, seed):
        terminal.say(str(path))


@command.command("curves", cls=Command)
@click.argument("folder", metavar="RUN", type=_FOLDER)
@terminal_options
def curves(folder: Path, terminal: Terminal) -> None:
    """Draw RUN/curves.png from the metrics of a run; a run does so itself now and then."""
    with needing_train_extra("train curves"):
        from varfix.engine.train.logs.curves import draw_curves

        draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    terminal.say(str(folder / "curves.png"))


@command.command("ablate", cls=Command)
@click.argument("weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("folder", metavar="DIR", type=_FOLDER)
@click.option("--only", multiple=True, metavar="SET", help="Only this folder; may be repeated.")
@click.option(
    "--sample",
    metavar="N",
    type=click.IntRange(min=1),
    help="N evenly spaced images of each set.",
)
@terminal_options
def ablate(
    weights: Path, folder: Path, only: tuple[str, ...], sample: int | None, terminal: Terminal
) -> None:
    """Measure what each part of a VarFormer-S is worth: WEIGHTS with one part at a time undone.

    DIR holds test sets, as for varfix eval --all. Prints a Markdown table of PSNR under the preset
    auto, and under the preset of the task behind a slash.
    """
    with terminal.busy("Loading PyTorch"), needing_train_extra("train ablate"):
        from varfix.engine.evaluation.test_sets import BenchmarkFilter
        from varfix.engine.train.ablation import run_ablations, table
    done = []
    for one in run_ablations(weights, folder, BenchmarkFilter(only, sample)):
        terminal.say(f"{one.name}: done")
        done.append(one)
    click.echo(table(done))
