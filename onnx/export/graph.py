"""Wrappers that give networks the inputs and outputs of the model contract (engine/README.md).

The networks do not know that they will be exported; what the contract adds (one map for the whole
prior, results clamped to [0, 1]) is added here.
"""

from __future__ import annotations

from torch import Tensor, nn

from varfix.engine.networks.varformer_s.prior import PriorNetwork
from varfix.engine.networks.varformer_s.unet import RestorerNetwork


class PriorGraph(nn.Module):
    """Thumbnail and task in, prior maps out."""

    def __init__(self, network: PriorNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, thumbnail: Tensor, task: Tensor) -> Tensor:
        """Map (1, 3, 256, 256) in [0, 1] and (1,) int64 to (1, 422, 16, 16)."""
        return self.network(thumbnail, task).maps


class RestoreGraph(nn.Module):
    """Tiles and their pieces of the prior in, restored tiles out."""

    def __init__(self, network: RestorerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, tile: Tensor, prior: Tensor) -> Tensor:
        """Map (B, 3, H, W) in [0, 1] and (B, 422, H / 16, W / 16) to (B, 3, H, W) in [0, 1]."""
        restored, _ = self.network(tile, prior)
        return restored.clamp(0.0, 1.0)
