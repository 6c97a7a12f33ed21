"""What can be trained: a network, how it is built, and the stages it learns in.

The loop (`varfix.engine.train.loop`) knows no network. To train another one,

1. write its stages, objects with the members of `Stage` (`stages/stage.py`), in a module of their
   own (`stages/varformer_s.py` holds those of VarFormer-S); who inherits from `PlainStage` need
   not write `prepare` and `start`. They may use `data/batches.py`, batches and pools of whole
   images and patches; a program with batches of its own gives `Program.batches`;
2. write its recipe, a YAML file in `recipes/` whose `model:` is the program's name and which
   has one section for each stage, named as the stage is (`varformer-s.yaml` is an example);
3. add a function that returns its `Program` to `PROGRAMS`. It imports the network when it is
   called, so that naming programs costs nothing.

`varfix train recipe.yaml --photos DIR --out RUN` does the rest: batches, averaging, saving,
resuming, several devices, sheets and curves. Whatever randomness a stage uses (dropout, random
initial values) must come from torch's global generator: the loop seeds it before `start` and
before every step, which is what makes a killed run end like an unbroken one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from varfix.engine.errors import ConfigError
from varfix.engine.train.data.batches import Batches
from varfix.engine.train.data.source import Source
from varfix.engine.train.recipes.recipe import Recipe, StageRecipe
from varfix.engine.train.stages.stage import Stage

RECIPES = Path(__file__).parent / "recipes"


MakeBatches = Callable[[Source, StageRecipe, int, torch.device], torch.utils.data.Dataset[Any]]
"""Source, recipe of the stage, seed, device -> a data set whose item `i` is the batch of step `i`,
the same one for the same arguments."""


@dataclass(frozen=True)
class Program:
    """A network and how it is trained.

    Attributes:
        build: makes the network with fresh weights.
        stages: in the order in which they run.
        restore: (model, images (B, 3, 256, 256) in [0, 1], tasks (B,)) -> restored images, for
            the sample sheets.
        batches: makes the batches of a stage.
        from_export: stages that lack nothing when the weights come from an exported model, which
            holds only what restoring needs.
    """

    build: Callable[[], nn.Module]
    stages: Sequence[Stage]
    restore: Callable[[Any, Tensor, Tensor], Tensor]
    batches: MakeBatches = Batches
    from_export: tuple[str, ...] = ()

    def check(self, recipe: Recipe) -> None:
        """Refuse a recipe that has other stages than these (ConfigError)."""
        names = [stage.name for stage in self.stages]
        for name in recipe.stages:
            if name not in names:
                raise ConfigError(
                    f'the recipe has an unknown key "{name}"',
                    hint=f"stages of {recipe.model}: {', '.join(names)}",
                )
        for name in names:
            if name not in recipe.stages:
                raise ConfigError(f'the recipe has no section "{name}"', hint="steps: 0 skips it")


def _varformer_s() -> Program:
    from varfix.engine.networks.varformer_s.model import build_varformer_s
    from varfix.engine.train.stages.varformer_s import STAGES

    return Program(
        build_varformer_s,
        STAGES,
        lambda model, picture, task: model(picture, task),
        from_export=("heads", "restorer"),
    )


def _restorevar() -> Program:
    from varfix.engine.networks.restorevar.model import RestoreVarConfig
    from varfix.engine.train.stages import restorevar as stages

    return Program(lambda: stages.Studio(RestoreVarConfig()), stages.STAGES, stages.restore_resized)


def _varformer() -> Program:
    from varfix.engine.networks.varformer.model import Varformer, VarformerConfig
    from varfix.engine.train.stages import varformer as stages

    return Program(lambda: Varformer(VarformerConfig()), stages.STAGES, stages.restore)


def _specialist() -> Program:
    from varfix.engine.networks.varformer_s.specialist import SpecialistNetwork
    from varfix.engine.train.stages import specialist as stages

    return Program(SpecialistNetwork, stages.STAGES, stages.restore)


PROGRAMS: Mapping[str, Callable[[], Program]] = MappingProxyType(
    {
        "restorevar": _restorevar,
        "specialist": _specialist,
        "varformer": _varformer,
        "varformer-s": _varformer_s,
    }
)
"""What `model:` in a recipe can be."""


def program_named(name: str) -> Program:
    """Return the program of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in PROGRAMS:
        raise ConfigError(f'no model "{name}" to train', hint=f"known: {', '.join(PROGRAMS)}")
    return PROGRAMS[name]()
