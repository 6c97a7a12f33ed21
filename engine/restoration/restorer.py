"""The port behind which inference happens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from varfix.engine.models.card import ModelCard

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DeviceUsed:
    """What was asked for, and what really computes."""

    requested: str
    device: str
    provider: str
    precision: str


@dataclass(frozen=True)
class Retries:
    """How often work was repeated: in fp32 after invalid values, in halves after lack of memory."""

    fp32: int = 0
    oom: int = 0


class Restorer(Protocol):
    """Restores tiles; used by one thread at a time."""

    @property
    def card(self) -> ModelCard:
        """Facts about the model."""
        ...

    @property
    def tile(self) -> int:
        """Side in pixels of the square tiles that `restore` likes best."""
        ...

    @property
    def tile_step(self) -> int:
        """Sides of other tiles are multiples of this; `tile` where there are none."""
        ...

    @property
    def batch(self) -> int:
        """How many tiles to pass at once; may shrink during a run."""
        ...

    @property
    def used(self) -> DeviceUsed:
        """Where and in which precision it computes."""
        ...

    @property
    def retries(self) -> Retries:
        """What had to be repeated so far."""
        ...

    def prior(self, thumbnail: Floats, task: str) -> Floats | None:
        """Look at a whole image once.

        Args:
            thumbnail: (S, S, 3) float32 in [0, 1], S from the card.
            task: a member of `models.TASKS`.

        Returns:
            (C, 16, 16) float32 for models with guidance `image`, otherwise None.
        """
        ...

    def restore(self, tiles: Floats, prior: Floats | None) -> Floats:
        """Restore tiles.

        Args:
            tiles: (N, height, width, 3) float32 in [0, 1], both sides `tile`, or multiples of
                `tile_step`, see `tiling.plan_rectangles`.
            prior: (N, C, height / stride, width / stride), the maps sampled on each tile, or None.

        Returns:
            (N, height, width, 3) float32 in [0, 1].

        Raises:
            NonFiniteError: The model gives invalid values even in fp32.
            DeviceMemoryError: One tile alone does not fit the device.
        """
        ...
