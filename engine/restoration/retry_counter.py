"""Counts the repetitions of work for an item."""

from __future__ import annotations

from varfix.engine.restoration.restorer import Floats, RestoredTiles, Restorer, Retries
from varfix.engine.restoration.restorer_proxy import RestorerProxy


class RetryCounter(RestorerProxy):
    """Adds up the repetitions that `restore` reports; each item has its own counter.

    Attributes:
        retries: Repetitions since the counter was created.
    """

    def __init__(self, restorer: Restorer) -> None:
        """Wrap a restorer; all counts are 0."""
        super().__init__(restorer)
        self.retries = Retries()

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Restore tiles and count; see `Restorer.restore`."""
        restored = super().restore(tiles, prior)
        self.retries += restored.retries
        return restored
