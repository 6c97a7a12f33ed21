"""The interface of a stage of training."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Stage(Protocol):
    """A stage of training; `model` is the result of the trainable's `build`."""

    @property
    def name(self) -> str:
        """Name of the stage's section in the recipe."""
        ...

    def parameters(self, model: Any) -> list[nn.Parameter]:
        """Return the trained weights, always in the same order; all others are frozen."""
        ...

    def prepare(self, model: Any, pool: Any) -> Any:
        """Prepare a pool once, before its steps."""
        ...

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        """Return losses by name, whose sum is minimized; computed in bf16 where that is fast.

        Each is a scalar, or has a value for each of the batch's `kinds` (N,), which are then
        balanced.
        """
        ...

    def start(self, model: Any, batches: Any) -> None:
        """Prepare the network before the first step of the stage.

        Not called when a run resumes, nor if `--init` set every weight of the network.
        """
        ...


class PlainStage:
    """A stage without preparation, as a base class."""

    def prepare(self, model: Any, pool: Any) -> Any:
        """Return the pool unchanged."""
        del model
        return pool

    def start(self, model: Any, batches: Any) -> None:
        """Do nothing."""
