"""What is known of a model before it is started: its card, and which sizes its graphs take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from varfix.engine.models.card import PREFIX, ModelCard
from varfix.onnx.files.card import check_weights, graph_digest, read_card, read_metadata
from varfix.onnx.files.model_files import ModelFiles
from varfix.onnx.inference.runtime import CPU, SessionPlan, start
from varfix.onnx.inference.signature import PRIOR, TILE, foreign_card, read_signature

_SCHEMA_KEY: Final = f"{PREFIX}schema"


@dataclass(frozen=True)
class Facts:
    """What is known of a model before it is started.

    Attributes:
        card: Its card.
        dims: Which sizes its symbolic dimensions have for tiles of a given edge, by name.
        step: Edges that tiles may have instead of the card's are multiples of this.
    """

    card: ModelCard
    dims: Callable[[int], dict[str, int]]
    step: int

    def shapes(self, size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the restore graph's inputs without the batch; nothing for a foreign graph."""
        if "height" not in self.dims(size):
            return {}
        cells = self.card.prior_channels, *[size // self.card.prior_stride] * 2
        prior = {PRIOR: cells} if self.card.guidance == "image" else {}
        return {TILE: (3, size, size), **prior}


def read_facts(found: ModelFiles) -> Facts:
    """Return what the files say of a model; a graph without card is looked at as far as it goes.

    Raises:
        ModelContractError: The files are not a model that varfix runs.
    """
    if _SCHEMA_KEY in read_metadata(found.restore):
        card = read_card(found.restore)
        if card.weights:
            check_weights(found.restore)
        # What a model learns from a tile as a whole depends on the tile's size.
        local = card.tiling == "supported" and card.guidance != "tile"
        step = card.multiple if local else card.tile
        return Facts(card, lambda size: _own_dims(card, size), step)
    session = start(found.restore, SessionPlan(CPU, optimize=False))
    names = read_signature(session, found.restore, "none").dims
    digest = graph_digest(found.restore)
    card = msgspec.structs.replace(foreign_card(session, found.restore), sha256=digest)
    # Which other edges such a graph can take, nobody has said.
    return Facts(card, lambda size: dict.fromkeys(names, size), card.tile)


def _own_dims(card: ModelCard, size: int) -> dict[str, int]:
    cells = size // card.prior_stride
    prior = {"prior_height": cells, "prior_width": cells} if card.guidance == "image" else {}
    return {"height": size, "width": size, **prior}
