"""What can be trained: networks and their stages.

The loop (`varfix.engine.train.loop`) does not depend on a network. To add a network:

1. Write its stages, objects with the members of `Stage` (`stages/stage.py`), in a module of their
   own; `stages/varformer_s.py` is an example. The base class `PlainStage` has default methods.
   Stages may use `data/batches.py`, batches and pools of images and patches; other batches are
   created by `Trainable.batches`.
2. Write its recipe, a YAML file in `recipes/`. Its `model:` is the name of the trainable, and it
   has one section for each stage, with the stage's name; `varformer-s.yaml` is an example.
3. Add a function that returns its `Trainable` to `TRAINABLES`. The function imports the network
   when it is called, so that listing the trainables is fast.

`varfix train recipe.yaml --photos DIR --out RUN` does the rest: batches, averaging, saving,
resuming,
several devices, sheets and curves. Random values of a stage (dropout, initial values) must be drawn
from torch's global generator, which the loop seeds before `start` and before every step. So a
resumed run has the same result as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from varfix.engine.errors import ConfigError
from varfix.engine.train.data.batches import Batches
from varfix.engine.train.data.source import Source
from varfix.engine.train.recipes.recipe import Recipe, StageRecipe
from varfix.engine.train.stages.judge import JudgeStage, judge_batches
from varfix.engine.train.stages.stage import Stage

RECIPES = Path(__file__).parent / "recipes"


MakeBatches = Callable[[Source, StageRecipe, int, torch.device], torch.utils.data.Dataset[Any]]
"""Maps source, recipe of the stage, seed and device to a data set whose item `i` is the batch of
step `i`; equal arguments give equal batches."""


@dataclass(frozen=True)
class Trainable:
    """A network and its training.

    Attributes:
        build: Creates the network with random weights.
        stages: Stages in the order in which they run.
        restore: Maps model, images (B, 3, 256, 256) in [0, 1] and tasks (B,) to restored images,
            for the sample sheets.
        batches: Creates the batches of a stage.
        own_batches: The same by name of the stage, for stages with batches of another kind.
        from_export: Stages that can start from an exported model, which lacks weights that only
            training needs.
    """

    build: Callable[[], nn.Module]
    stages: Sequence[Stage]
    restore: Callable[[Any, Tensor, Tensor], Tensor]
    batches: MakeBatches = Batches
    own_batches: Mapping[str, MakeBatches] = field(default_factory=dict)
    from_export: tuple[str, ...] = ()

    def batches_of(self, stage: str) -> MakeBatches:
        """What makes the batches of the stage of that name."""
        return self.own_batches.get(stage, self.batches)

    def check(self, recipe: Recipe) -> None:
        """Reject a recipe with other stages (ConfigError)."""
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


def _varformer_s() -> Trainable:
    from varfix.engine.networks.varformer_s.model import build_varformer_s
    from varfix.engine.train.stages.varformer_s import STAGES

    return Trainable(
        build_varformer_s,
        STAGES,
        lambda model, image, task: model(image, task),
        own_batches={JudgeStage.name: judge_batches},
        from_export=("heads", "judge", "restorer"),
    )


def _restorevar() -> Trainable:
    from varfix.engine.networks.restorevar.model import RestoreVarConfig
    from varfix.engine.train.stages import restorevar as stages

    return Trainable(
        lambda: stages.RestoreVarWithCritic(RestoreVarConfig()),
        stages.STAGES,
        stages.restore_resized,
    )


def _varformer() -> Trainable:
    from varfix.engine.networks.varformer.model import Varformer, VarformerConfig
    from varfix.engine.train.stages import varformer as stages

    return Trainable(lambda: Varformer(VarformerConfig()), stages.STAGES, stages.restore)


def _specialist() -> Trainable:
    from varfix.engine.networks.varformer_s.specialist import SpecialistNetwork
    from varfix.engine.train.stages import specialist as stages

    return Trainable(SpecialistNetwork, stages.STAGES, stages.restore)


TRAINABLES: Mapping[str, Callable[[], Trainable]] = MappingProxyType(
    {
        "restorevar": _restorevar,
        "specialist": _specialist,
        "varformer": _varformer,
        "varformer-s": _varformer_s,
    }
)
"""The trainables by the value of `model:` in a recipe."""


def trainable_named(name: str) -> Trainable:
    """Return the trainable of a name.

    Raises:
        ConfigError: There is none.
    """
    if name not in TRAINABLES:
        raise ConfigError(f'no model "{name}" to train', hint=f"known: {', '.join(TRAINABLES)}")
    return TRAINABLES[name]()
