"""A stage of training: what it trains, and the losses it minimizes."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Stage(Protocol):
    """One stage of training. `model` is what the program's `build` returns."""

    @property
    def name(self) -> str:
        """Name of the stage's section in the recipe."""
        ...

    def parameters(self, model: Any) -> list[nn.Parameter]:
        """What this stage trains, always in the same order; all else is frozen meanwhile."""
        ...

    def prepare(self, model: Any, pool: Any) -> Any:
        """Do to a pool what needs doing once, before the steps that are dealt from it."""
        ...

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        """Losses by name, whose sum is minimized; runs under bf16 autocast where that is fast.

        Each is a scalar, or one for each of the batch's `kinds` (N,): then kinds are balanced.
        """
        ...

    def start(self, model: Any, batches: Any) -> None:
        """Prepare the model before the stage's first step.

        Not called again on resuming, nor where `--init` gave every weight of the network.
        """
        ...


class PlainStage:
    """What most stages have in common: they learn from batches as they come."""

    def prepare(self, model: Any, pool: Any) -> Any:
        """The pool as it is."""
        del model
        return pool

    def start(self, model: Any, batches: Any) -> None:
        """Nothing."""
