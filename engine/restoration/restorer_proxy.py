"""A restorer that forwards every call to another one; a base for observers of a model."""

from __future__ import annotations

from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.findings import Findings
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.restoration.restorer import DeviceUsed, Floats, RestoredTiles, Restorer


class RestorerProxy:
    """Forwards to another restorer; subclasses override `prior` or `restore`."""

    def __init__(self, restorer: Restorer) -> None:
        """Wrap a restorer."""
        self._restorer = restorer

    @property
    def card(self) -> ModelCard:
        """The wrapped restorer's card."""
        return self._restorer.card

    @property
    def tile(self) -> int:
        """The wrapped restorer's preferred tile."""
        return self._restorer.tile

    @property
    def tile_step(self) -> int:
        """The wrapped restorer's step of tile sizes."""
        return self._restorer.tile_step

    @property
    def batch(self) -> int:
        """The wrapped restorer's batch."""
        return self._restorer.batch

    @property
    def used(self) -> DeviceUsed:
        """The wrapped restorer's device and precision."""
        return self._restorer.used

    @property
    def findings(self) -> Findings | None:
        """What the wrapped restorer found in the image that it saw last."""
        return self._restorer.findings

    def prior(self, prior_input: PriorInput) -> Floats | None:
        """Compute the prior of a whole image; see `Restorer.prior`."""
        return self._restorer.prior(prior_input)

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Restore tiles; see `Restorer.restore`."""
        return self._restorer.restore(tiles, prior)
