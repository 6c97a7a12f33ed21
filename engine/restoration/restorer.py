"""The interface of inference: a restorer of tiles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.findings import Findings
from varfix.engine.restoration.prior_input import PriorInput

Floats = npt.NDArray[np.float32]

WarningHandler = Callable[[str, str], None]
"""Receives the code and the text of a warning."""


@dataclass(frozen=True)
class DeviceUsed:
    """The requested device, and the actual device, provider and precision."""

    requested: str
    device: str
    provider: str
    precision: str


@dataclass(frozen=True)
class Retries:
    """Repetitions of work for a result.

    Attributes:
        fp32: Tiles repeated in fp32 after invalid values.
        oom: Batches split in two and repeated after out-of-memory errors.
    """

    fp32: int = 0
    oom: int = 0

    def __add__(self, other: Retries) -> Retries:
        """Return the repetitions of both."""
        return Retries(self.fp32 + other.fp32, self.oom + other.oom)


@dataclass(frozen=True)
class RestoredTiles:
    """The result of `Restorer.restore`.

    Attributes:
        pixels: (N, height, width, 3) float32 in [0, 1].
        retries: Repetitions that these tiles needed.
    """

    pixels: Floats
    retries: Retries = Retries()


class Restorer(Protocol):
    """Restores tiles; used by one thread at a time."""

    @property
    def card(self) -> ModelCard:
        """Card of the model."""
        ...

    @property
    def tile(self) -> int:
        """Preferred side of square tiles in pixels."""
        ...

    @property
    def tile_step(self) -> int:
        """Sides of other tiles are multiples of this; equal to `tile` if it is the only size."""
        ...

    @property
    def batch(self) -> int:
        """Number of tiles in a batch; may shrink during a run."""
        ...

    @property
    def used(self) -> DeviceUsed:
        """Device and precision."""
        ...

    @property
    def findings(self) -> Findings | None:
        """Findings in the image that `prior` saw last; None for models that judge nothing."""
        ...

    def prior(self, prior_input: PriorInput) -> Floats | None:
        """Compute the prior of a whole image.

        Returns:
            (C, 16, 16) float32 for models with guidance `image`, otherwise None.
        """
        ...

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Restore tiles.

        Args:
            tiles: (N, height, width, 3) float32 in [0, 1], both sides `tile`, or multiples of
                `tile_step` as in `varfix.engine.restoration.tiling.plan_rectangles`.
            prior: (N, C, height / stride, width / stride), the maps sampled on each tile, or None.

        Returns:
            The restored tiles, as many and as large.

        Raises:
            NonFiniteError: The model produced invalid values even in fp32.
            DeviceMemoryError: A single tile does not fit the device.
        """
        ...


@dataclass(frozen=True)
class OpenedModel:
    """A model that is ready to run, and the digest of all of its graphs."""

    restorer: Restorer
    sha256: str


class ModelLoader(Protocol):
    """Loads a model where it is called; can be sent to another machine."""

    def __call__(self, warn: WarningHandler) -> OpenedModel:
        """Load the model.

        Raises:
            ModelError: The model is missing, or cannot run.
            DeviceError: The device does not start.
        """
        ...
