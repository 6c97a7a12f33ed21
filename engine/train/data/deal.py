"""Batches of steps, dealt out of pools that are made ready once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from varfix.engine.train.trainable import Pool


def deal(
    pools: Iterator[Pool], parts: int, first: int, prepare: Callable[[Pool], Pool]
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
