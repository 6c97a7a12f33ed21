"""The multi-scale VQ-VAE of VAR (engine/networks/README.md).

The published checkpoint (`VqvaeConfig()`) and VarFormer-S's small VQ-VAE differ only in their
configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.conv_blocks import (
    Downsample,
    Level,
    Middle,
    Upsample,
    group_norm,
)
from varfix.engine.networks.layers.quantizer import SCALES, Quantized, Quantizer


@dataclass(frozen=True)
class VqvaeConfig:
    """Sizes of a VQ-VAE; the defaults are those of the published `vae_ch160v4096z32`.

    Attributes:
        channels: Width of the first level.
        multipliers: Width of each level in units of `channels`, fine to coarse.
        blocks: Residual blocks per encoder level; decoder levels have one more.
        latent: Channels of the latent.
        codes: Entries of the codebook.
        groups: Groups of the group normalizations.
        patch: Pixels folded into channels before the first level; 1 = none.
        scales: Sides of the token maps; the last is that of the latent.
    """

    channels: int = 160
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    latent: int = 32
    codes: int = 4096
    groups: int = 32
    patch: int = 1
    scales: tuple[int, ...] = SCALES

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level, fine to coarse."""
        return tuple(self.channels * m for m in self.multipliers)

    def side(self, level: int = 0) -> int:
        """Return the side of a level's maps; level 0 has the image's side divided by `patch`."""
        return self.scales[-1] << (len(self.multipliers) - 1 - level)


class EncoderLevel(Level):
    """A level and the downsampling after it (none after the last)."""

    def __init__(self, channels: list[int], has_attention: bool, last: bool, groups: int) -> None:
        super().__init__(channels, has_attention, groups)
        self.downsample = nn.Identity() if last else Downsample(channels[-1])

    def refine(self, x: Tensor) -> Tensor:
        """Map (B, channels[0], H, W) to (B, channels[-1], H, W): without the downsampling."""
        return super().forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels[0], H, W) to (B, channels[-1], H / 2, W / 2)."""
        return self.downsample(self.refine(x))


class DecoderLevel(Level):
    """A level and the upsampling after it (none after the finest)."""

    def __init__(self, channels: list[int], has_attention: bool, last: bool, groups: int) -> None:
        super().__init__(channels, has_attention, groups)
        self.upsample = nn.Identity() if last else Upsample(channels[-1])

    def refine(self, x: Tensor) -> Tensor:
        """Map (B, channels[0], H, W) to (B, channels[-1], H, W): without the upsampling."""
        return super().forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels[0], H, W) to (B, channels[-1], 2 H, 2 W)."""
        return self.upsample(self.refine(x))


class VqvaeEncoder(nn.Module):
    """Image to features: levels fine to coarse, then the bottleneck."""

    def __init__(self, config: VqvaeConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.patch = config.patch
        self.conv_in = nn.Conv2d(3 * config.patch**2, config.channels, 3, padding=1)
        before = (config.channels, *widths)
        self.down = nn.ModuleList(
            EncoderLevel(
                [before[i]] + [widths[i]] * config.blocks, i == last, i == last, config.groups
            )
            for i in range(len(widths))
        )
        self.mid = Middle(widths[-1], config.groups)
        self.norm_out = group_norm(widths[-1], config.groups)
        self.conv_out = nn.Conv2d(widths[-1], config.latent, 3, padding=1)

    def levels(self, image: Tensor) -> list[Tensor]:
        """Return each level's features before its downsampling, fine to coarse; see `features`."""
        x = self.conv_in(functional.pixel_unshuffle(image, self.patch))
        seen = []
        for level in cast("list[EncoderLevel]", list(self.down)):
            seen.append(level.refine(x))
            x = level.downsample(seen[-1])
        return seen

    def features(self, image: Tensor) -> Tensor:
        """Return bottleneck features (B, widths[-1], 16, 16) of images (B, 3, H, W) in [-1, 1]."""
        x = self.conv_in(functional.pixel_unshuffle(image, self.patch))
        for level in self.down:
            x = level(x)
        return self.mid(x)

    def project(self, features: Tensor) -> Tensor:
        """Return the latent (B, latent, 16, 16) of bottleneck features, before `quant_conv`."""
        return self.conv_out(functional.silu(self.norm_out(features)))

    def forward(self, image: Tensor) -> Tensor:
        """Return the latent (B, latent, 16, 16) of images (B, 3, H, W) in [-1, 1]."""
        return self.project(self.features(image))


class VqvaeDecoder(nn.Module):
    """Latent to image: the bottleneck, then levels coarse to fine."""

    def __init__(self, config: VqvaeConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.patch = config.patch
        self.conv_in = nn.Conv2d(config.latent, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.groups)
        before = (*widths[1:], widths[-1])
        self.up = nn.ModuleList(
            DecoderLevel(
                [before[i]] + [widths[i]] * (config.blocks + 1), i == last, i == 0, config.groups
            )
            for i in range(len(widths))
        )
        self.norm_out = group_norm(config.channels, config.groups)
        self.conv_out = nn.Conv2d(config.channels, 3 * config.patch**2, 3, padding=1)

    def bottleneck(self, latent: Tensor) -> Tensor:
        """Return features (B, widths[-1], 16, 16) of a latent (B, latent, 16, 16)."""
        return self.mid(self.conv_in(latent))

    def levels(self, features: Tensor, finest: int) -> dict[int, Tensor]:
        """Return the features of the levels down to `finest` before upsampling, by level.

        Args:
            features: (B, widths[-1], 16, 16), from `bottleneck`.
            finest: The finest level to compute; 0 has the image's resolution.
        """
        x, seen = features, {}
        for i, level in reversed(list(enumerate(cast("list[DecoderLevel]", list(self.up))))):
            if i < finest:
                break
            seen[i] = level.refine(x)
            if i > finest:
                x = level.upsample(seen[i])
        return seen

    def forward(self, latent: Tensor) -> Tensor:
        """Return the images (B, 3, H, W), about [-1, 1], of a latent (B, latent, 16, 16)."""
        x = self.bottleneck(latent)
        for level in reversed(self.up):
            x = level(x)
        x = self.conv_out(functional.silu(self.norm_out(x)))
        return functional.pixel_shuffle(x, self.patch)


class Vqvae(nn.Module):
    """Encoder, multi-scale quantizer and decoder."""

    def __init__(self, config: VqvaeConfig) -> None:
        super().__init__()
        self.side = config.side() * config.patch
        self.encoder = VqvaeEncoder(config)
        self.decoder = VqvaeDecoder(config)
        self.quantize = Quantizer(config.codes, config.latent, config.scales)
        self.quant_conv = nn.Conv2d(config.latent, config.latent, 3, padding=1)
        self.post_quant_conv = nn.Conv2d(config.latent, config.latent, 3, padding=1)

    def encode(self, image: Tensor) -> Tensor:
        """Return the latent (B, latent, 16, 16) of images (B, 3, 256, 256) in [-1, 1]."""
        return self.quant_conv(self.encoder(image))

    def quantized(self, image: Tensor) -> Quantized:
        """Return tokens and increments of images (B, 3, 256, 256) in [-1, 1]."""
        found: Quantized = self.quantize(self.encode(image))
        return found

    def decode(self, latent: Tensor) -> Tensor:
        """Return the images (B, 3, 256, 256) of a latent (B, latent, 16, 16), not clamped."""
        return self.decoder(self.post_quant_conv(latent))

    def forward(self, image: Tensor) -> Tensor:
        """Return the reconstruction (B, 3, 256, 256) in [-1, 1] of images in [-1, 1]."""
        return self.decode(self.quantized(image).latent).clamp(-1.0, 1.0)
