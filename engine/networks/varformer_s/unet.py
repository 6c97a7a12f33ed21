"""The tile network of VarFormer-S: restores a tile, given its part of the prior.

A U-Net of dense 3 x 3 convolutions after a 2x pixel-unshuffle, the best quality for the time on a
CPU (engine/networks/README.md, "Size and cost"). The prior's tone grid is applied first; the U-Net
receives the tile before and after it, and corrects the rest.
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
    """Sizes of the tile network.

    Attributes:
        widths: Channels at 1/2, 1/4, 1/8 and 1/16 of the tile's side.
        blocks: Residual blocks per level, in the encoder and again in the decoder.
        middle: Residual blocks at the coarsest level.
        latent: Channels of each increment of S.
    """

    widths: tuple[int, int, int, int] = (48, 96, 160, 224)
    blocks: int = 2
    middle: int = 3
    latent: int = 32


MULTIPLE = 64
"""Sides of tiles are multiples of this: one attention window at 1/8 and at 1/16."""


class PlainBlock(nn.Module):
    """Two 3 x 3 convolutions and a residual.

    Normalization by statistics of a tile would make neighboring tiles disagree; normalization over
    channels does not. At the fine levels, its time outweighs its benefit.
    """

    def __init__(self, channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        # Initially close to the identity, so that depth does not amplify.
        self.conv2.weight.data.mul_(0.2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        h: Tensor = self.conv2(functional.leaky_relu(self.conv1(self.norm(x)), SLOPE))
        return x + h


def fine_stack(channels: int, count: int) -> nn.Sequential:
    """Return plain blocks for the fine levels, without normalization."""
    return nn.Sequential(*(PlainBlock(channels, nn.Identity()) for _ in range(count)))


def deep_stack(channels: int, count: int) -> nn.Sequential:
    """Return plain blocks for the coarse levels, normalized because their features would grow."""
    return nn.Sequential(*(PlainBlock(channels, ChannelNorm(channels)) for _ in range(count)))


class RestorerNetwork(nn.Module):
    """Encoder, decoder, and the fusion of the prior."""

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
        # Not zero: the gradients of the other layers would start at zero, then grow faster than
        # Adam's second moment, and training would diverge (measured).
        nn.init.normal_(self.conv_out.weight, std=1e-3)
        nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    @staticmethod
    def _levels(config: RestorerConfig) -> nn.ModuleList:
        half, quarter, eighth, _ = config.widths
        count = config.blocks
        fine = [fine_stack(half, count), fine_stack(quarter, count)]
        return nn.ModuleList([*fine, deep_stack(eighth, count)])

    def forward(self, tile: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Restore a tile.

        Args:
            tile: (B, 3, H, W) in [0, 1], H and W multiples of 64.
            prior: (B, 422, H / 16, W / 16): S, tone grid and scores, sampled on the tile.

        Returns:
            The restored tile, and the tile after tone correction only; both (B, 3, H, W), not
            clamped.
        """
        folded = functional.pixel_unshuffle(tile, 2)
        increments, grid, scores = prior.split(self.parts, 1)
        toned = apply_tone(folded, grid)
        # The input of the U-Net is bounded, and no gradient flows back to tone: an excessive gain
        # would otherwise make the network diverge, because it has no normalization.
        images = torch.cat([folded, toned.detach().clamp(-0.5, 1.5)], 1)
        correction = self.correction(images, increments, scores)
        return (
            functional.pixel_shuffle(toned + correction, 2),
            functional.pixel_shuffle(toned, 2),
        )

    def correction(self, images: Tensor, coarse: Tensor, scores: Tensor) -> Tensor:
        """Return the correction by the U-Net, (B, 12, H / 2, W / 2).

        Args:
            images: (B, 24, H / 2, W / 2), the folded tile before and after tone correction.
            coarse: S at 1/16, (B, 320, H / 16, W / 16).
            scores: (B, 6, H / 16, W / 16), the same everywhere.
        """
        fine = functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")
        fine_scores = functional.interpolate(scores, scale_factor=2.0, mode="nearest")
        half = self.encoder[0](self.conv_in(images))
        quarter = self.encoder[1](self.down[0](half))
        eighth = self.inform_eighth(self.fuse_eighth(self.down[1](quarter), fine), fine_scores)
        eighth = self.encoder[2](eighth)
        x = self.fuse_sixteenth(self.down[2](eighth), coarse)
        x = self.middle(self.inform_sixteenth(x, scores))
        x = self.skip[2](functional.pixel_shuffle(self.up[2](x), 2), eighth)
        x = self.decoder[2](self.inform_decoder(self.fuse_decoder(x, fine), fine_scores))
        x = self.skip[1](functional.pixel_shuffle(self.up[1](x), 2), quarter)
        x = self.decoder[1](x)
        x = self.skip[0](functional.pixel_shuffle(self.up[0](x), 2), half)
        return self.conv_out(self.decoder[0](x))
