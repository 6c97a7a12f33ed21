"""VarFormer-S, the default model: the only place for its sizes (engine/networks/README.md)."""

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

    def forward(self, picture: Tensor, task: Tensor) -> Tensor:
        """Restore images that are their own thumbnails: (B, 3, 256, 256) in [0, 1] to the same.

        Larger images are cut into tiles by `varfix.engine.restoration.restore_image`.
        """
        restored, _ = self.restorer(picture, self.prior(picture, task).maps)
        return restored.clamp(0.0, 1.0)


def build_varformer_s(config: VarformerSConfig | None = None) -> VarformerS:
    """Build VarFormer-S with fresh weights."""
    sizes = config or VarformerSConfig()
    return VarformerS(PriorNetwork(sizes.prior), RestorerNetwork(sizes.restorer))
