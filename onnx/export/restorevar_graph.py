"""RestoreVAR with the inputs and outputs of the model contract; see `released_graph`.

One graph holds all: encoder, keys of the degraded image, the ten scales, refiner and decoder.
These parts share no weights, so that cutting it up would only add files; what passes between them
are named values inside, by which each part is checked.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from varfix.engine.networks.restorevar.model import RestoreVar
from varfix.onnx.export.released_graphs import RESTORED, TOKENS, shallow


class RestoreVarGraph(nn.Module):
    """The released RestoreVAR."""

    def __init__(self, network: RestoreVar) -> None:
        super().__init__()
        self.network = shallow(network)
        writer = self.network.writer
        # Of the table of classes only "any" is used. A copy: of a view, all would be written.
        writer.condition = nn.Embedding.from_pretrained(writer.condition.weight[-1:].clone())

    def forward(self, tile: Tensor) -> dict[str, Tensor]:
        """Restore a tile (1, 3, 512, 512) in [0, 1].

        Returns:
            `restored` (1, 3, 512, 512) in [0, 1]; `tokens` (1, 2240) of the clean image; and
            every intermediate result that the network tells of, by its name.
        """
        stages: dict[str, Tensor] = {}
        restored = self.network.restore(2.0 * tile - 1.0, stages.__setitem__)
        return {RESTORED: restored, TOKENS: stages.pop(TOKENS), **stages}


def forced(network: RestoreVar, tile: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Restore a tile (1, 3, 512, 512) in [0, 1] with given tokens (1, 2240).

    Returns:
        The restored tile in [0, 1], and the tokens that the network would have chosen.
    """
    chosen: list[Tensor] = []

    def keep(name: str, value: Tensor) -> None:
        if name == TOKENS:
            chosen.append(value)

    restored = network.restore(2.0 * tile - 1.0, keep, tokens)
    return restored, torch.cat(chosen)
