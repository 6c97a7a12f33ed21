"""Batches of steps, dealt out of pools that are made ready once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch


class BatchPool(Protocol):
    """What one or more steps are dealt from."""

    def to(self, device: torch.device) -> Any:
        """The pool on that device."""
        ...

    def dealt(self, part: int, parts: int) -> Any:
        """The batch of one step: one of `parts` parts."""
        ...


def deal(
    pools: Iterator[BatchPool], parts: int, first: int, prepare: Callable[[BatchPool], BatchPool]
) -> Iterator[Any]:
    """The batches of all steps from `first` on.

    Args:
        pools: from the one that the first step's batch is in.
        parts: batches in a pool.
        first: number of the first step.
        prepare: what is done to a pool once, such as computing the prior of its images.
    """
    for pool in pools:
        ready = prepare(pool)
        for part in range(first % parts, parts):
            yield ready.dealt(part, parts)
        first = 0
