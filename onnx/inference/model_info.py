"""Reads the card of a model and the sizes of its inputs, before it is started."""

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
class ModelInfo:
    """Card and input sizes of a model.

    Attributes:
        card: The card.
        dims: Returns the symbolic dimensions for tiles of a given edge, by name.
        step: Edges of other tiles are multiples of this.
    """

    card: ModelCard
    dims: Callable[[int], dict[str, int]]
    step: int

    def shapes(self, size: int) -> dict[str, tuple[int, ...]]:
        """Return the input shapes of the restore graph without the batch; empty without a card."""
        if "height" not in self.dims(size):
            return {}
        cells = self.card.prior_channels, *[size // self.card.prior_stride] * 2
        prior = {PRIOR: cells} if self.card.guidance == "image" else {}
        return {TILE: (3, size, size), **prior}


def read_model_info(found: ModelFiles) -> ModelInfo:
    """Return card and input sizes of a model; inspect the graph if it has no card.

    Raises:
        ModelContractError: The files are not a supported model.
    """
    if _SCHEMA_KEY in read_metadata(found.restore):
        card = read_card(found.restore)
        if card.weights:
            check_weights(found.restore)
        # Global features of a tile depend on its size.
        local = card.tiling == "supported" and card.guidance != "tile"
        step = card.multiple if local else card.tile
        return ModelInfo(card, lambda size: _own_dims(card, size), step)
    session = start(found.restore, SessionPlan(CPU, optimize=False))
    names = read_signature(session, found.restore).dims
    digest = graph_digest(found.restore)
    card = msgspec.structs.replace(foreign_card(session, found.restore), sha256=digest)
    # Other tile sizes are unknown for a graph without a card.
    return ModelInfo(card, lambda size: dict.fromkeys(names, size), card.tile)


def _own_dims(card: ModelCard, size: int) -> dict[str, int]:
    cells = size // card.prior_stride
    prior = {"prior_height": cells, "prior_width": cells} if card.guidance == "image" else {}
    return {"height": size, "width": size, **prior}
