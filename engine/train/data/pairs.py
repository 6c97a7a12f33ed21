"""People's own pairs of a damaged and a good image, decoded once and cut at random."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from varfix.engine.errors import NothingToDoError, PlanError
from varfix.engine.evaluation.pairs import find_pairs
from varfix.engine.models.card import TASKS
from varfix.engine.train.data.photos import (
    Picture,
    cut_all,
    decode,
    host_generator,
    random_cut,
    stacked,
)
from varfix.engine.train.degradations.mix import Degraded
from varfix.engine.train.degradations.random_draws import integer

OWN = "own"
"""What stands for a degradation in batches of pairs."""


class Pairs:
    """An in-memory set of pairs (damaged, good), each of one size."""

    def __init__(self, pairs: list[tuple[Picture, Picture]], task: str) -> None:
        """Keep decoded pairs of RGB images (H, W, 3) that are examples of `task`."""
        self.pairs, self.task = pairs, TASKS.index(task)

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, count: int, side: int, rng: torch.Generator) -> Degraded:
        """Cut random squares, the same of both images of a pair.

        The task is told to the model in half of the cases.
        """
        host = host_generator(rng)
        pairs = [self.pairs[integer(0, len(self), host)] for _ in range(count)]
        cuts = [random_cut(damaged.shape[:2], side, host) for damaged, _ in pairs]
        damaged, good = (
            cut_all([(pair[half], cut) for pair, cut in zip(pairs, cuts, strict=True)], side)
            for half in (0, 1)
        )
        told = torch.randint(0, 2, (count,), generator=rng, device=rng.device)
        return Degraded(
            target=stacked(good, rng.device),
            picture=stacked(damaged, rng.device),
            task=told * self.task,
            names=(OWN,) * count,
        )

    def mixed(self, weights: Mapping[str, float]) -> Pairs:
        """The same: what is wrong with them is as it is."""
        del weights
        return self


def load_pairs(inputs: Path, targets: Path, task: str) -> Pairs:
    """Decode the pairs of two folders, matched by name as `varfix eval --pairs` matches them.

    Raises:
        NothingToDoError: There are none of a useful size.
        PlanError: An image has no target, or one of another size.
    """
    pairs: list[tuple[Picture, Picture]] = []
    for pair in find_pairs(inputs, targets).pairs:
        damaged, good = decode(pair.source), decode(pair.target)
        if damaged is None or good is None:
            continue
        if damaged.shape != good.shape:
            raise PlanError(f"{pair.name}: the images of the pair differ in size")
        pairs.append((damaged, good))
    if not pairs:
        raise NothingToDoError(f"no pairs to train on under {inputs} and {targets}")
    return Pairs(pairs, task)
