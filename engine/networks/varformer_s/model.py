"""VarFormer-S, the default network; the defaults of the configurations are the shipped sizes.

Source: engine/networks/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from varfix.engine.networks.varformer_s.prior import PriorConfig, PriorNetwork
from varfix.engine.networks.varformer_s.unet import RestorerConfig, RestorerNetwork


@dataclass(frozen=True)
class VarformerSConfig:
    """Sizes of both parts."""

    prior: PriorConfig = field(default_factory=PriorConfig)
    restorer: RestorerConfig = field(default_factory=RestorerConfig)


class VarformerS(nn.Module):
    """Prior and restorer."""

    def __init__(self, prior: PriorNetwork, restorer: RestorerNetwork) -> None:
        super().__init__()
        self.prior = prior
        self.restorer = restorer

    def forward(self, image: Tensor, task: Tensor) -> Tensor:
        """Restore images (B, 3, 256, 256) in [0, 1], which are their own thumbnails.

        `varfix.engine.restoration.restore_image` restores larger images in tiles.
        """
        restored, _ = self.restorer(image, self.prior(image, task).maps)
        return restored.clamp(0.0, 1.0)


def build_varformer_s(config: VarformerSConfig | None = None) -> VarformerS:
    """Build VarFormer-S with untrained weights."""
    sizes = config or VarformerSConfig()
    return VarformerS(PriorNetwork(sizes.prior), RestorerNetwork(sizes.restorer))
