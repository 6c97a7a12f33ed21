"""The learning rate of each step, and the time limit of a run."""

from __future__ import annotations

import math
from time import monotonic

from varfix.engine.train.recipes.recipe import StageRecipe


def learning_rate(stage: StageRecipe, share: float, taken: int) -> float:
    """Return a cosine from `learning_rate` to `min_learning_rate`, after a linear warm-up.

    The warm-up counts steps of the optimizer, not of the stage. If a finished stage is extended,
    its optimizer is new, and its first steps at the full rate would be far too large (measured: 30
    of them destroyed a trained restorer).

    Args:
        stage: Recipe of the stage.
        share: Finished share of the stage, in [0, 1].
        taken: Steps of the optimizer so far.
    """
    falling = stage.min_learning_rate + 0.5 * (stage.learning_rate - stage.min_learning_rate) * (
        1.0 + math.cos(math.pi * min(1.0, share))
    )
    return falling * min(1.0, (taken + 1) / max(1, stage.warmup))


class Clock:
    """The time limit of a run over all of its sessions."""

    def __init__(self, minutes: float | None) -> None:
        """Begin with no time used; `minutes` is None for a run limited by steps."""
        self._limit = None if minutes is None else 60.0 * minutes
        self._earlier, self._begun = 0.0, math.nan

    def start(self) -> None:
        """Begin a session."""
        self._begun = monotonic()

    def resume(self, elapsed: float) -> None:
        """Set the seconds of earlier sessions."""
        self._earlier = elapsed

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        running = not math.isnan(self._begun)
        return self._earlier + (monotonic() - self._begun if running else 0.0)

    @property
    def share(self) -> float | None:
        """Used share of the time, in [0, 1]; None without a limit."""
        return None if self._limit is None else min(1.0, self.elapsed / self._limit)
