"""The learning rate of every step, and the time that a run has."""

from __future__ import annotations

import math
from time import monotonic

from varfix.engine.train.recipes.recipe import StageRecipe


def learning_rate(stage: StageRecipe, share: float, taken: int) -> float:
    """A cosine from `rate` to `last_rate`, behind a linear warm-up.

    The warm-up counts the steps that the optimizer has taken, not those of the stage: a finished
    stage that goes on for longer begins with an empty optimizer, whose first steps are far too
    large at the full rate (measured: 30 of them destroyed a trained restorer).

    Args:
        stage: its recipe.
        share: of the stage that is over, in [0, 1].
        taken: steps that stand behind the optimizer's moments.
    """
    falling = stage.min_learning_rate + 0.5 * (stage.learning_rate - stage.min_learning_rate) * (
        1.0 + math.cos(math.pi * min(1.0, share))
    )
    return falling * min(1.0, (taken + 1) / max(1, stage.warmup))


class Clock:
    """The time that a run may take, all of its sessions together, and what is over of it."""

    def __init__(self, minutes: float | None) -> None:
        """Nothing is over; None is a run that is limited by steps."""
        self._limit = None if minutes is None else 60.0 * minutes
        self._earlier, self._begun = 0.0, math.nan

    def start(self) -> None:
        """Begin a session."""
        self._begun = monotonic()

    def resume(self, elapsed: float) -> None:
        """Earlier sessions took so many seconds."""
        self._earlier = elapsed

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        running = not math.isnan(self._begun)
        return self._earlier + (monotonic() - self._begun if running else 0.0)

    @property
    def share(self) -> float | None:
        """Which share of the time is over, in [0, 1]; None without a limit."""
        return None if self._limit is None else min(1.0, self.elapsed / self._limit)
