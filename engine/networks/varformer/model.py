"""VarFormer as published: the paper's network at depth 16, for images of 256 x 256.

A frozen VQ-VAE and VAR compute the prior (section 3.2 of the paper); the main encoder and decoder
use it at every level but the finest (section 3.3). Source: engine/networks/README.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.conv_blocks import Middle, group_norm
from varfix.engine.networks.layers.next_scale import Prediction, restore_one_by_one
from varfix.engine.networks.layers.probes import Probe, no_probe, prefixed
from varfix.engine.networks.layers.quantizer import straight_through
from varfix.engine.networks.layers.vqvae import (
    DecoderLevel,
    EncoderLevel,
    Vqvae,
    VqvaeConfig,
    VqvaeEncoder,
)
from varfix.engine.networks.varformer.adapter import CurveAdapter
from varfix.engine.networks.varformer.fusion import FusionConfig, OfficialFusion
from varfix.engine.networks.varformer.var import Var, VarConfig


@dataclass(frozen=True)
class VarformerConfig:
    """Sizes of all parts; the defaults are the published network's.

    Attributes:
        vqvae: Sizes of the VQ-VAE, and of the main encoder and decoder, which have its layers.
        var: Sizes of the transformer.
        adapter: Number of blocks of the adapter.
        encoder_heads: Heads of the main encoder's window attention.
        decoder_heads: Heads of the main decoder's window attention.
    """

    vqvae: VqvaeConfig = field(default_factory=VqvaeConfig)
    var: VarConfig = field(default_factory=VarConfig)
    adapter: int = 4
    encoder_heads: int = 8
    decoder_heads: int = 4


def fusions(config: VqvaeConfig, heads: int, channels: tuple[int, ...]) -> nn.ModuleDict:
    """Return the fusions of level 1 and coarser; `channels` are the main branch's."""
    guided = range(1, len(config.widths))
    sizes = (
        FusionConfig(
            channels=width,
            guide=config.widths[i],
            heads=heads,
            side=config.side(i),
            latent=config.latent,
            groups=config.groups,
        )
        for i, width in zip(guided, channels, strict=True)
    )
    return nn.ModuleDict({str(i): OfficialFusion(s) for i, s in zip(guided, sizes, strict=True)})


class MainEncoder(VqvaeEncoder):
    """The VQ-VAE's encoder, with a fusion before every level but the finest."""

    def __init__(self, config: VqvaeConfig, heads: int) -> None:
        super().__init__(config)
        widths = config.widths
        self.fusion = fusions(config, heads, widths[:-1])

    def guided(
        self, image: Tensor, guides: list[Tensor], increments: Tensor, probe: Probe = no_probe
    ) -> tuple[Tensor, list[Tensor]]:
        """Encode with the prior.

        Args:
            image: (B, 3, 256, 256) in [-1, 1].
            guides: The VQ-VAE encoder's levels, fine to coarse.
            increments: S, (B, 10, latent, 16, 16).
            probe: Receives intermediate results.

        Returns:
            The latent (B, latent, 16, 16) before `quant_conv`, and this encoder's levels.
        """
        x, seen = self.conv_in(image), []
        probe("conv_in", x)
        for i, level in enumerate(cast("list[EncoderLevel]", list(self.down))):
            if i > 0:
                x = self.fusion[str(i)](x, guides[i], increments, prefixed(probe, f"L{i}/"))
            seen.append(level.refine(x))
            probe(f"Level_{i}", seen[-1])
            x = level.downsample(seen[-1])
        features = self.mid(x)
        probe("middle", features)
        latent = self.project(features)
        probe("conv_out", latent)
        return latent, seen


class MainDecoder(nn.Module):
    """Latent to image: at every level mix-up with the main encoder, then fusion of the prior."""

    def __init__(self, config: VqvaeConfig, heads: int) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        after = (config.channels, *widths)  # input channels of the next finer level
        self.conv_in = nn.Conv2d(config.latent, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], config.groups)
        self.fusion = fusions(config, heads, widths[1:])
        self.up = nn.ModuleList(
            DecoderLevel([widths[i]] + [after[i]] * config.blocks, i == last, i == 0, config.groups)
            for i in range(len(widths))
        )
        self.norm_out = group_norm(config.channels, config.groups)
        self.conv_out = nn.Conv2d(config.channels, 3, 3, padding=1)
        self.theta = nn.Parameter(torch.zeros(len(widths)))
        self.picture_share = nn.Parameter(torch.zeros(()))

    def forward(
        self,
        latent: Tensor,
        encoded: list[Tensor],
        guides: dict[int, Tensor],
        increments: Tensor,
        probe: Probe = no_probe,
    ) -> Tensor:
        """Return the decoded image (B, 3, 256, 256), before it is blended with the input.

        Args:
            latent: (B, latent, 16, 16), of the main encoder, after `quant_conv`.
            encoded: The main encoder's levels, fine to coarse.
            guides: The VQ-VAE decoder's levels by number, all but the finest.
            increments: S, (B, 10, latent, 16, 16).
            probe: Receives intermediate results.
        """
        x = self.conv_in(latent)
        probe("conv_in", x)
        x = self.mid(x)
        probe("mid", x)
        for i, level in reversed(list(enumerate(cast("list[DecoderLevel]", list(self.up))))):
            seen = prefixed(probe, f"L{i}/")
            x = self.mix_up(x, encoded[i], i)
            seen("mix", x)
            if i > 0:
                x = self.fusion[str(i)](x, guides[i], increments, seen)
            x = level.refine(x)
            seen("blocks_out", x)
            x = level.upsample(x)
            seen("upsample", x)
        decoded: Tensor = self.conv_out(functional.silu(self.norm_out(x)))
        probe("conv_out", decoded)
        return decoded

    def mix_up(self, decoded: Tensor, encoded: Tensor, level: int) -> Tensor:
        """Return the learned blend of decoder and encoder features (mix-up skip, eq. 6)."""
        share = self.theta[level].sigmoid()
        return share * decoded + (1.0 - share) * encoded

    def blend_with_input(self, decoded: Tensor, image: Tensor) -> Tensor:
        """Return a learned blend of the decoded image and the input, clamped to [-1, 1]."""
        share = self.picture_share
        return ((1.0 - share) * decoded + share * image).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class VarformerPrior:
    """The prior of an image, from the frozen part of the network.

    Attributes:
        guides: The VQ-VAE encoder's levels of the degraded image, fine to coarse.
        tokens: (B, 680) int64 of the degraded image, after the adapter.
        adapted: (B, latent, 16, 16), the adapter's quantized output, for the matching loss; its
            gradient reaches the adapter (straight-through).
        prediction: Tokens and increments of the clean image.
    """

    guides: list[Tensor]
    tokens: Tensor
    adapted: Tensor
    prediction: Prediction


class Varformer(nn.Module):
    """VarFormer: VQ-VAE, adapter, VAR, main encoder and main decoder."""

    def __init__(self, config: VarformerConfig) -> None:
        super().__init__()
        self.vqvae = Vqvae(config.vqvae)
        self.adapter = CurveAdapter(config.vqvae.latent, config.adapter)
        self.var = Var(config.var)
        self.encoder = MainEncoder(config.vqvae, config.encoder_heads)
        self.decoder = MainDecoder(config.vqvae, config.decoder_heads)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 3, 256, 256) in [-1, 1] to [0, 1], see `restore_one_by_one`."""
        return restore_one_by_one(self.restore, image, self.vqvae.side)

    def restore(
        self, image: Tensor, probe: Probe = no_probe, tokens: Tensor | None = None
    ) -> Tensor:
        """Restore a batch together.

        Args:
            image: (B, 3, 256, 256) in [-1, 1].
            probe: Receives intermediate results.
            tokens: (B, 680) int64 of the clean image, for teacher forcing; see `Var.forward`.

        Returns:
            (B, 3, 256, 256) in [0, 1].
        """
        prior = self.prior(image, probe, tokens)
        return self.restore_with_prior(image, prior, probe)

    def prior(
        self, image: Tensor, probe: Probe = no_probe, tokens: Tensor | None = None
    ) -> VarformerPrior:
        """Return the prior (section 3.2 of the paper); arguments as in `restore`."""
        guides = self.vqvae.encoder.levels(image)
        for i, level in enumerate(guides):
            probe(f"vqenc/Level_{i}", level)
        features = self.vqvae.encoder.mid(guides[-1])
        probe("vqenc/middle", features)
        projected = self.vqvae.encoder.project(features)
        probe("vqenc/conv_out", projected)
        latent = self.vqvae.quant_conv(projected)
        probe("vqenc_z", latent)
        adapted = self.adapter(latent, prefixed(probe, "adapter/"))
        probe("adapter_out", adapted)
        quantize = self.vqvae.quantize
        found = quantize(adapted)
        pyramid = quantize.pyramid(found.increments)
        probe("var_input", pyramid)
        prediction = self.var(pyramid, quantize, prefixed(probe, "var/"), tokens)
        through = straight_through(adapted, found.latent)
        return VarformerPrior(guides, found.tokens, through, prediction)

    def restore_with_prior(
        self, image: Tensor, prior: VarformerPrior, probe: Probe = no_probe
    ) -> Tensor:
        """Restore with a given prior (section 3.3); image and result as in `restore`."""
        increments = prior.prediction.increments
        encoded, levels = self.encoder.guided(
            image, prior.guides, increments, prefixed(probe, "mainenc/")
        )
        latent = self.vqvae.quant_conv(encoded)
        probe("mainenc_z", latent)
        decoded = self.decoder(
            latent, levels, self.clean_levels(prior, probe), increments, prefixed(probe, "maindec/")
        )
        return (self.decoder.blend_with_input(decoded, image) + 1.0) / 2.0

    def clean_levels(self, prior: VarformerPrior, probe: Probe = no_probe) -> dict[int, Tensor]:
        """Return the VQ-VAE decoder's levels of the predicted image, all but the finest."""
        decoder = self.vqvae.decoder
        features = decoder.bottleneck(self.vqvae.post_quant_conv(prior.prediction.latent))
        probe("vqdec/z_quant", features)
        levels = decoder.levels(features, finest=1)
        for i, level in levels.items():
            probe(f"vqdec/Level_{i}", level)
        return levels
