"""Splits pools into the batches of single steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch


class BatchPool(Protocol):
    """The data of one or more steps."""

    def to(self, device: torch.device) -> Any:
        """Return the pool on a device."""
        ...

    def split(self, part: int, parts: int) -> Any:
        """Return the batch of one step: one of `parts` parts."""
        ...


def split_pools(
    pools: Iterator[BatchPool], parts: int, first: int, prepare: Callable[[BatchPool], BatchPool]
) -> Iterator[Any]:
    """Yield the batches of all steps from `first` on.

    Args:
        pools: The pools, beginning with that of the first step.
        parts: Batches in a pool.
        first: Number of the first step.
        prepare: Prepares a pool once, for example computes the prior of its images.
    """
    for pool in pools:
        ready = prepare(pool)
        for part in range(first % parts, parts):
            yield ready.split(part, parts)
        first = 0
