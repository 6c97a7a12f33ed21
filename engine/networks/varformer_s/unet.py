"""The local network of VarFormer-S: a tile and its piece of the prior in, the restored tile out.

A U-Net of dense 3x3 convolutions behind a 2x pixel-unshuffle: what a CPU runs fastest per
quality (engine/networks/README.md, "Size and cost"). Tone comes first, from the prior's grid; the
U-Net sees the image before and after and corrects what remains.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.quantizer import SCALES
from varfix.engine.networks.varformer_s.degradation_head import KINDS, DegradationFilm
from varfix.engine.networks.varformer_s.fusion import SLOPE, ChannelNorm, MixUpSkip, PriorFusion
from varfix.engine.networks.varformer_s.tone_grid import GRID_CHANNELS, apply_tone


@dataclass(frozen=True)
class RestorerConfig:
    """Sizes of the local network.

    Attributes:
        widths: channels at 1/2, 1/4, 1/8 and 1/16 of the tile's side.
        blocks: residual blocks per level, on the way down and again on the way up.
        middle: residual blocks at the coarsest level.
        latent: channels of each increment of S.
    """

    widths: tuple[int, int, int, int] = (48, 96, 160, 224)
    blocks: int = 2
    middle: int = 3
    latent: int = 32


MULTIPLE = 64
"""Tiles are multiples of this many pixels: one attention window at 1/8 and at 1/16."""


class PlainBlock(nn.Module):
    """Two 3x3 convolutions and a residual.

    Normalization by a tile's own statistics would make neighboring tiles disagree; over channels
    it does not. At the fine levels it would cost more than it gives.
    """

    def __init__(self, channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        # Near the identity at first, so that depth does not amplify.
        self.conv2.weight.data.mul_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        h: Tensor = self.conv2(functional.leaky_relu(self.conv1(self.norm(x)), SLOPE))
        return x + h


def fine_stack(channels: int, count: int) -> nn.Sequential:
    """A row of plain blocks for the fine levels."""
    return nn.Sequential(*(PlainBlock(channels, nn.Identity()) for _ in range(count)))


def deep_stack(channels: int, count: int) -> nn.Sequential:
    """A row of plain blocks for the coarse levels, whose features would grow without bound."""
    return nn.Sequential(*(PlainBlock(channels, ChannelNorm(channels)) for _ in range(count)))


class RestorerNetwork(nn.Module):
    """Encoder, decoder and the places where the prior enters."""

    def __init__(self, config: RestorerConfig) -> None:
        super().__init__()
        widths = config.widths
        self.parts = (len(SCALES) * config.latent, GRID_CHANNELS, len(KINDS))
        self.conv_in = nn.Conv2d(24, widths[0], 3, padding=1)
        self.encoder = self._levels(config)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.middle = deep_stack(widths[3], config.middle)
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.skip = nn.ModuleList(MixUpSkip() for _ in widths[:3])
        self.decoder = self._levels(config)
        self.fuse_eighth = PriorFusion(widths[2], window=8)
        self.fuse_sixteenth = PriorFusion(widths[3], window=4)
        self.fuse_decoder = PriorFusion(widths[2], window=8)
        self.inform_eighth = DegradationFilm(widths[2])
        self.inform_sixteenth = DegradationFilm(widths[3])
        self.inform_decoder = DegradationFilm(widths[2])
        self.conv_out = nn.Conv2d(widths[0], 12, 3, padding=1)
        # Small, not zero: behind a zero the other layers' gradients begin at nothing, then grow
        # faster than Adam's second moment follows, and training explodes (measured).
        nn.init.normal_(self.conv_out.weight, std=1e-3)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    @staticmethod
    def _levels(config: RestorerConfig) -> nn.ModuleList:
        half, quarter, eighth, _ = config.widths
        count = config.blocks
        fine = [fine_stack(half, count), fine_stack(quarter, count)]
        return nn.ModuleList([*fine, deep_stack(eighth, count)])

    def forward(self, tile: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Restore.

        Args:
            tile: (B, 3, H, W) in [0, 1], H and W multiples of 64.
            prior: (B, 422, H / 16, W / 16), S, tone grid and evidence sampled on the tile.

        Returns:
            The restored tile and the tile after tone alone, both (B, 3, H, W) and not clamped.
        """
        folded = functional.pixel_unshuffle(tile, 2)
        increments, grid, evidence = prior.split(self.parts, 1)
        toned = apply_tone(folded, grid)
        # What enters the U-Net is bounded and sends no gradient back to tone: a gain that shoots
        # over would otherwise run away with the whole network, which has no normalization.
        seen = torch.cat([folded, toned.detach().clamp(-0.5, 1.5)], 1)
        correction = self.correction(seen, increments, evidence)
        return (
            functional.pixel_shuffle(toned + correction, 2),
            functional.pixel_shuffle(toned, 2),
        )

    def correction(self, pictures: Tensor, coarse: Tensor, evidence: Tensor) -> Tensor:
        """What the U-Net adds, (B, 12, H / 2, W / 2).

        Args:
            pictures: (B, 24, H / 2, W / 2), the folded tile before and after tone.
            coarse: S at 1/16, (B, 320, H / 16, W / 16).
            evidence: (B, 6, H / 16, W / 16), alike everywhere.
        """
        fine = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")
        told = functional.interpolate(evidence, scale_factor=2.0, mode="nearest")
        half = self.encoder[0](self.conv_in(pictures))
        quarter = self.encoder[1](self.down[0](half))
        eighth = self.inform_eighth(self.fuse_eighth(self.down[1](quarter), fine), told)
        eighth = self.encoder[2](eighth)
        x = self.fuse_sixteenth(self.down[2](eighth), coarse)
        x = self.middle(self.inform_sixteenth(x, evidence))
        x = self.skip[2](functional.pixel_shuffle(self.up[2](x), 2), eighth)
        x = self.decoder[2](self.inform_decoder(self.fuse_decoder(x, fine), told))
        x = self.skip[1](functional.pixel_shuffle(self.up[1](x), 2), quarter)
        x = self.decoder[1](x)
        x = self.skip[0](functional.pixel_shuffle(self.up[0](x), 2), half)
        return self.conv_out(self.decoder[0](x))
