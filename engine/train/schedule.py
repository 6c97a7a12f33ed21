"""The learning rate of every step."""

from __future__ import annotations

import math

import torch

from varfix.engine.train.recipes.recipe import StageRecipe


def learning_rate(stage: StageRecipe, step: int, taken: int) -> float:
    """A cosine from `rate` to `last_rate`, behind a linear warm-up.

    The warm-up counts the steps that the optimizer has taken, not those of the stage: a finished
    stage that goes on for longer begins with an empty optimizer, whose first steps are far too
    large at the full rate (measured: 30 of them destroyed a trained restorer).
    """
    share = max(0, step - stage.warmup) / max(1, stage.steps - stage.warmup)
    falling = stage.last_rate + 0.5 * (stage.rate - stage.last_rate) * (
        1.0 + math.cos(math.pi * share)
    )
    return falling * min(1.0, (taken + 1) / max(1, stage.warmup))


def steps_taken(optimizer: torch.optim.Optimizer) -> int:
    """How many steps stand behind the optimizer's moments."""
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)
