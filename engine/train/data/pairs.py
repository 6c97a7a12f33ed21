"""The user's own pairs of degraded and clean images, decoded once and cropped at random."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from varfix.engine.errors import NothingToDoError, PlanError
from varfix.engine.evaluation.pairs import find_pairs
from varfix.engine.models.card import TASKS
from varfix.engine.train.data.photos import (
    Pixels,
    crop_all,
    decode,
    host_generator,
    random_crop,
    to_batch,
)
from varfix.engine.train.degradations.mix import Degraded
from varfix.engine.train.degradations.random_draws import integer

OWN = "own"
"""Name of pairs in place of a degradation."""


class Pairs:
    """A set of pairs (degraded, clean) in memory."""

    def __init__(self, pairs: list[tuple[Pixels, Pixels]], task: str) -> None:
        """Keep decoded pairs of RGB images (H, W, 3), examples of `task`."""
        self.pairs, self.task = pairs, TASKS.index(task)

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, count: int, side: int, rng: torch.Generator) -> Degraded:
        """Crop random squares at the same place of both images of a pair.

        Half of the images have the task as a hint.
        """
        host = host_generator(rng)
        pairs = [self.pairs[integer(0, len(self), host)] for _ in range(count)]
        crops = [random_crop(degraded.shape[:2], side, host) for degraded, _ in pairs]
        degraded, clean = (
            crop_all([(pair[half], crop) for pair, crop in zip(pairs, crops, strict=True)], side)
            for half in (0, 1)
        )
        hinted = torch.randint(0, 2, (count,), generator=rng, device=rng.device)
        return Degraded(
            target=to_batch(clean, rng.device),
            image=to_batch(degraded, rng.device),
            task=hinted * self.task,
            names=(OWN,) * count,
        )

    def mixed(self, weights: Mapping[str, float]) -> Pairs:
        """Return these pairs: their degradations are fixed."""
        del weights
        return self


def load_pairs(inputs: Path, targets: Path, task: str) -> Pairs:
    """Decode the pairs of two folders, matched by name as in `varfix eval --pairs`.

    Raises:
        NothingToDoError: There is no pair of sufficient size.
        PlanError: An image has no target, or the sizes differ.
    """
    pairs: list[tuple[Pixels, Pixels]] = []
    for pair in find_pairs(inputs, targets).pairs:
        degraded, clean = decode(pair.source), decode(pair.target)
        if degraded is None or clean is None:
            continue
        if degraded.shape != clean.shape:
            raise PlanError(f"{pair.name}: the images of the pair differ in size")
        pairs.append((degraded, clean))
    if not pairs:
        raise NothingToDoError(f"no pairs to train on under {inputs} and {targets}")
    return Pairs(pairs, task)
