"""Fusion of the prior with the main branch: scale weights, DAE and AFT (eqs. 3 to 5).

Unlike VarFormer-S's fusion, it depends on the whole image of 256 x 256. engine/networks/README.md,
"VarFormer", lists the differences from the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.attention import dot_product_attention
from varfix.engine.networks.layers.conv_blocks import group_norm
from varfix.engine.networks.layers.probes import Probe, no_probe, prefixed
from varfix.engine.networks.layers.quantizer import SCALES, flatten
from varfix.engine.networks.layers.swin import ResidualSwinBlock

MEDIATOR = 4
"""Pixels per mediator, along each axis."""


@dataclass(frozen=True)
class FusionConfig:
    """Sizes of the fusion at one level.

    Attributes:
        channels: Channels of the main branch's features.
        guide: Channels of the VQ-VAE's features at this level.
        heads: Heads of the window attention.
        side: Side of the maps, a multiple of 16.
        latent: Channels of each increment of S.
        groups: Groups of the group normalizations.
    """

    channels: int
    guide: int
    heads: int
    side: int
    latent: int = 32
    groups: int = 32


def swin_pair(channels: int, sizes: FusionConfig) -> nn.ModuleList:
    """Return two residual Swin blocks of one level."""
    return nn.ModuleList(ResidualSwinBlock(channels, sizes.heads, sizes.side) for _ in range(2))


def run_pair(blocks: nn.ModuleList, x: Tensor, probe: Probe) -> Tensor:
    """Run the blocks of `swin_pair` on (B, C, H, W)."""
    for i, block in enumerate(blocks):
        x = block(x)
        probe(f"rstb{i}", x)
    return x


class ScaleWeightedPrior(nn.Module):
    """Weights the ten scales of S for this image and enlarges them to the level (eq. 3).

    The weighted increments are concatenated, not summed, and normalized afterwards.
    """

    def __init__(self, sizes: FusionConfig) -> None:
        super().__init__()
        enlargement = sizes.side // SCALES[-1]
        self.norm = group_norm(sizes.guide + sizes.channels, sizes.groups)
        self.query = nn.Conv2d(sizes.guide + sizes.channels, sizes.guide, 1)
        self.swin = swin_pair(sizes.guide, sizes)
        self.to_weights = nn.Conv2d(sizes.guide, len(SCALES), 1)
        self.project = nn.Conv2d(len(SCALES) * sizes.latent, sizes.channels, 1)
        self.enlarge: nn.Module = nn.Identity()
        self.smooth: nn.Module = nn.Identity()
        if enlargement > 1:
            self.enlarge = nn.Upsample(scale_factor=enlargement, mode="nearest")
            self.smooth = nn.Conv2d(sizes.channels, sizes.channels, 3, padding=1)

    def forward(
        self, features: Tensor, guide: Tensor, increments: Tensor, probe: Probe = no_probe
    ) -> Tensor:
        """Return the prior at this level, (B, channels, side, side).

        Args:
            features: Features of the main branch, (B, channels, side, side).
            guide: The VQ-VAE's features at this level, (B, guide, side, side).
            increments: S, (B, 10, latent, 16, 16).
            probe: Receives intermediate results.
        """
        weights = self.scale_logits(features, guide, probe).softmax(1)  # (B, 10, 1, 1)
        weighted = (weights[:, :, None] * increments).flatten(1, 2)  # (B, 10 latent, 16, 16)
        normed = functional.instance_norm(weighted, eps=1e-5)
        probe("prior_inorm", normed)
        prior: Tensor = self.smooth(self.enlarge(self.project(normed)))
        probe("var_prior", prior)
        return prior

    def scale_logits(self, features: Tensor, guide: Tensor, probe: Probe = no_probe) -> Tensor:
        """Return the scales' weights before the softmax, (B, 10, 1, 1); see `forward`."""
        normed = self.norm(torch.cat([guide, features], 1))
        query = self.query(normed)
        probe("prior_query_norm", normed)
        probe("prior_query", query)
        seen = run_pair(self.swin, query, prefixed(probe, "wp_"))
        logits: Tensor = self.to_weights(seen).mean((2, 3), keepdim=True)
        probe("scale_weight_logits", logits)
        return logits


class RegionEnhancement(nn.Module):
    """DAE: weights features and prior at every pixel (eq. 4)."""

    def __init__(self, sizes: FusionConfig) -> None:
        super().__init__()
        self.swin = swin_pair(2 * sizes.channels, sizes)
        self.to_regions = nn.Conv2d(2 * sizes.channels, 2, 1)

    def forward(self, features: Tensor, prior: Tensor, probe: Probe = no_probe) -> Tensor:
        """Map features and prior, both (B, C, H, W), to F_g of the same shape."""
        probe("dae_in", features)
        both = torch.cat([features, prior], 1)
        seen = run_pair(self.swin, both, prefixed(probe, "rac_"))
        logits = self.to_regions(seen)
        probe("region_logits", logits)
        regions = logits.softmax(1)
        enhanced = regions[:, :1] * features + regions[:, 1:] * prior
        probe("dae_out", enhanced)
        return enhanced


class FeatureTransformation(nn.Module):
    """AFT: two-step attention to the prior through a small mediator (eq. 5)."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm_query = group_norm(channels, groups)
        self.query = nn.Conv2d(channels, channels, 1)
        self.norm_key_value = group_norm(channels, groups)
        self.key_value = nn.Conv2d(channels, 2 * channels, 1)
        self.norm_mediator = group_norm(2 * channels, groups)
        self.mediator = nn.Conv2d(2 * channels, channels, MEDIATOR, stride=MEDIATOR)
        self.project = nn.Conv2d(channels, channels, 1)

    def forward(self, enhanced: Tensor, prior: Tensor, probe: Probe = no_probe) -> Tensor:
        """Map F_g and the prior, both (B, C, H, W), to the same shape."""
        q = flatten(self.query(self.norm_query(enhanced)))  # (B, HW, C)
        k, v = flatten(self.key_value(self.norm_key_value(prior))).chunk(2, -1)
        mediator = self.mediator(self.norm_mediator(torch.cat([enhanced, prior], 1)))
        probe("aft_anchor", mediator)
        m = flatten(mediator)  # (B, HW / 16, C)
        spread = (
            dot_product_attention(q, m, dot_product_attention(m, k, v))
            .transpose(1, 2)
            .reshape(enhanced.shape)
        )
        projected: Tensor = self.project(spread)
        transformed = enhanced + projected
        probe("aft_out", transformed)
        return transformed


class OfficialFusion(nn.Module):
    """Scale weights, DAE and AFT at one level."""

    def __init__(self, sizes: FusionConfig) -> None:
        super().__init__()
        self.prior = ScaleWeightedPrior(sizes)
        self.enhance = RegionEnhancement(sizes)
        self.transform = FeatureTransformation(sizes.channels, sizes.groups)

    def forward(
        self, features: Tensor, guide: Tensor, increments: Tensor, probe: Probe = no_probe
    ) -> Tensor:
        """Map features (B, channels, side, side) to the same shape; see `ScaleWeightedPrior`."""
        prior = self.prior(features, guide, increments, probe)
        return self.transform(self.enhance(features, prior, probe), prior, probe)
