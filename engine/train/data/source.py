"""Sources of degraded images and their targets: synthetic degradations, and the user's pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from varfix.engine.train.degradations.mix import Degraded, Mix, degrade
from varfix.engine.train.degradations.random_draws import chance


class CleanImages(Protocol):
    """Clean images, such as `varfix.engine.train.data.photos.Photos`."""

    def batch(self, count: int, side: int, rng: torch.Generator) -> Tensor:
        """Return random square crops (count, 3, side, side) in [0, 1]."""
        ...


class Source(Protocol):
    """Returns square images, degraded and clean."""

    def draw(self, count: int, side: int, rng: torch.Generator) -> Degraded:
        """Return `count` images (count, 3, side, side); equal generators give equal images."""
        ...

    def mixed(self, weights: Mapping[str, float]) -> Source:
        """Return the source with other shares of the degradations, if they are synthetic."""
        ...


@dataclass(frozen=True)
class Synthetic:
    """Clean images with synthetic degradations."""

    photos: CleanImages
    mix: Mix

    def draw(self, count: int, side: int, rng: torch.Generator) -> Degraded:
        """Crop and degrade images."""
        return degrade(self.photos.batch(count, side, rng), self.mix, rng)

    def mixed(self, weights: Mapping[str, float]) -> Synthetic:
        """Return the same images with other shares of the degradations."""
        return replace(self, mix=replace(self.mix, weights=weights))


@dataclass(frozen=True)
class Blended:
    """Two sources; each image is from the second one with probability `share`."""

    first: Source
    second: Source
    share: float

    def draw(self, count: int, side: int, rng: torch.Generator) -> Degraded:
        """Draw from both sources, and join the images; training does not depend on their order."""
        others = sum(chance(self.share, rng) for _ in range(count))
        parts = [
            source.draw(number, side, rng)
            for source, number in ((self.first, count - others), (self.second, others))
            if number
        ]
        return Degraded(
            target=torch.cat([part.target for part in parts]),
            image=torch.cat([part.image for part in parts]),
            task=torch.cat([part.task for part in parts]),
            names=tuple(name for part in parts for name in part.names),
        )

    def mixed(self, weights: Mapping[str, float]) -> Blended:
        """Return both sources with other shares of the degradations."""
        return Blended(self.first.mixed(weights), self.second.mixed(weights), self.share)
