"""A restorer that returns its input: every stage around the model is tested with it."""

from dataclasses import dataclass, field

import numpy as np

from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.findings import Findings
from varfix.engine.restoration.restorer import DeviceUsed, RestoredTiles

IDENTITY_CARD = ModelCard(name="identity", licence="CC0-1.0", tile=64, multiple=1, overlap=16)


@dataclass
class IdentityRestorer:
    """Returns its input, bit for bit."""

    card: ModelCard = IDENTITY_CARD
    tile: int = 64
    tile_step: int = 64
    batch: int = 4
    findings: Findings | None = None
    used: DeviceUsed = field(default=DeviceUsed("cpu", "cpu", "none", "fp32"))

    def prior(self, prior_input):
        """Return maps of zeros where the card promises maps."""
        if self.card.guidance != "image":
            return None
        return np.zeros((self.card.prior_channels, 16, 16), np.float32)

    def restore(self, tiles, prior):
        """Return the tiles."""
        return RestoredTiles(tiles)
