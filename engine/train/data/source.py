"""Where images and their targets come from: damaged photographs, and people's own pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from varfix.engine.train.degradations.mix import Degraded, Mix, degrade
from varfix.engine.train.degradations.random_draws import chance


class Pictures(Protocol):
    """Clean photographs, such as `varfix.engine.train.data.photos.Photos`."""

    def batch(self, count: int, side: int, rng: torch.Generator) -> Tensor:
        """Random square cuts (count, 3, side, side) in [0, 1]."""
        ...


class Source(Protocol):
    """Gives whole square images, degraded and clean."""

    def draw(self, count: int, side: int, rng: torch.Generator) -> Degraded:
        """`count` images (count, 3, side, side); equal generators give equal images."""
        ...

    def mixed(self, weights: Mapping[str, float]) -> Source:
        """The same with other shares of the degradations, where it makes them itself."""
        ...


@dataclass(frozen=True)
class Synthetic:
    """Clean photographs that are damaged as the mix says."""

    photos: Pictures
    mix: Mix

    def draw(self, count: int, side: int, rng: torch.Generator) -> Degraded:
        """Cut and degrade."""
        return degrade(self.photos.batch(count, side, rng), self.mix, rng)

    def mixed(self, weights: Mapping[str, float]) -> Synthetic:
        """The same photographs, damaged in other shares."""
        return replace(self, mix=replace(self.mix, weights=weights))


@dataclass(frozen=True)
class Blended:
    """Two sources; each image comes from the second one with probability `share`."""

    first: Source
    second: Source
    share: float

    def draw(self, count: int, side: int, rng: torch.Generator) -> Degraded:
        """Draw from both and join; the order does not matter to training."""
        others = sum(chance(self.share, rng) for _ in range(count))
        parts = [
            source.draw(number, side, rng)
            for source, number in ((self.first, count - others), (self.second, others))
            if number
        ]
        return Degraded(
            target=torch.cat([part.target for part in parts]),
            picture=torch.cat([part.picture for part in parts]),
            task=torch.cat([part.task for part in parts]),
            names=tuple(name for part in parts for name in part.names),
        )

    def mixed(self, weights: Mapping[str, float]) -> Blended:
        """Both sources so."""
        return Blended(self.first.mixed(weights), self.second.mixed(weights), self.share)
