"""The image-level prior of VarFormer-S: from a thumbnail to the paper's S and a tone grid.

The judge predicts the degradations and the tone as well, with an encoder of its own.

The degraded thumbnail is encoded, and the adapter moves its latent toward clean ones. The
next-scale transformer predicts the clean tokens. S is the softmax expectation over the codebook
instead of the most likely code, so that it is continuous. Sources: VarFormer, section 3.2 and
figure 4; engine/networks/README.md lists the differences.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from varfix.engine.networks.layers.conv_blocks import AttentionBlock, ResBlock
from varfix.engine.networks.layers.quantizer import SCALES, flatten, split_scales
from varfix.engine.networks.layers.vqvae import Vqvae, VqvaeConfig, VqvaeEncoder
from varfix.engine.networks.varformer_s.decisions import (
    confident,
    confident_in_task,
    considered,
    head_tone,
    joined,
    tell,
    tone_share,
)
from varfix.engine.networks.varformer_s.degradation_head import (
    KINDS,
    DegradationHead,
    cell_statistics,
)
from varfix.engine.networks.varformer_s.judge import SIDE, Judge, averaging, own_crops
from varfix.engine.networks.varformer_s.tone_grid import GRID_CHANNELS, ToneHead, tone_certainty
from varfix.engine.networks.varformer_s.transformer import NextScaleTransformer, TransformerConfig

SMALL_VQVAE = VqvaeConfig(
    channels=64, multipliers=(1, 2, 3), blocks=1, latent=32, codes=1024, groups=16, patch=4
)


@dataclass(frozen=True)
class PriorConfig:
    """Sizes of the prior; `adapter` is the width of the adapter."""

    vqvae: VqvaeConfig = SMALL_VQVAE
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    adapter: int = 96


@dataclass(frozen=True)
class Prior:
    """The prior of an image.

    Attributes:
        increments: S, (B, 10, 32, 16, 16), the predicted increment of each scale (eq. 2).
        grid: (B, 96, 16, 16), the tone grid; zero is the identity.
        scores: (B, 6) in [0, 1], what the restorer is told about each of `KINDS`.
        found: (B, 4, 6) in [0, 1]: how likely each of `KINDS` is, how far the head's tone counts
            for it, how strong it is if it is there, and how far it is acted on.
    """

    increments: Tensor
    grid: Tensor
    scores: Tensor
    found: Tensor

    @property
    def maps(self) -> Tensor:
        """S, tone grid and scores as one map (B, 422, 16, 16), from which tiles get their part."""
        return join_maps(self.increments, self.grid, self.scores)


@dataclass(frozen=True)
class PriorFeatures:
    """Results of the prior before it predicts tone and degradations.

    Attributes:
        increments: S, as in `Prior`.
        features: (B, C, 16, 16), the first input of the tone head and the degradation head.
        statistics: (B, 33, 16, 16) of the thumbnail's cells, their second input.
        logits: (B, 680, codes) of the tokens, for the feature-matching loss.
        adapted: (B, 32, 16, 16), the adapter's output F_a of eq. 7.
    """

    increments: Tensor
    features: Tensor
    statistics: Tensor
    logits: Tensor
    adapted: Tensor


THUMBNAIL = 256
"""Side of the thumbnail in pixels."""

TONE_ONLY = ("haze", "lowlight")
"""Kinds that nothing but the tone grid treats."""

MAP_CHANNELS = len(SCALES) * SMALL_VQVAE.latent + GRID_CHANNELS + len(KINDS)


def join_maps(increments: Tensor, grid: Tensor, scores: Tensor) -> Tensor:
    """Return S, the tone grid and the scores, which are the same in every cell, as one map.

    Args:
        increments: (B, 10, 32, 16, 16).
        grid: (B, 96, 16, 16).
        scores: (B, 6).

    Returns:
        (B, 422, 16, 16).
    """
    spread = scores[:, :, None, None] + torch.zeros_like(grid[:, : len(KINDS)])
    return torch.cat([increments.flatten(1, 2), grid, spread], 1)


class Adapter(nn.Module):
    """Self-attention blocks that move a degraded latent toward the clean ones (section 3.2)."""

    def __init__(self, latent: int, width: int, groups: int = 16) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            nn.Conv2d(latent, width, 1),
            ResBlock(width, width, groups),
            AttentionBlock(width, groups),
            ResBlock(width, width, groups),
            nn.Conv2d(width, latent, 1),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Map (B, latent, 16, 16) to the same shape."""
        moved: Tensor = self.blocks(latent)
        return latent + moved


class PriorNetwork(nn.Module):
    """Encoder, adapter, transformer, codebook, tone head, degradation head and judge.

    The attribute `evidence` is the degradation head; it is part of the keys of checkpoints.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.vqvae = Vqvae(config.vqvae)
        self.encoder = VqvaeEncoder(config.vqvae)
        self.quant_conv = nn.Conv2d(config.vqvae.latent, config.vqvae.latent, 3, padding=1)
        self.adapter = Adapter(config.vqvae.latent, config.adapter)
        self.transformer = NextScaleTransformer(config.transformer)
        known = config.vqvae.widths[-1] + config.transformer.width + config.vqvae.latent
        self.tone = ToneHead(known)
        self.evidence = DegradationHead(known)
        self.judge = Judge()
        self.register_buffer("shrinking", averaging(THUMBNAIL, SIDE), persistent=False)
        self.shrinking: Tensor
        tone_only = torch.tensor([kind in TONE_ONLY for kind in KINDS])
        self.register_buffer("tone_only", tone_only, persistent=False)
        self.tone_only: Tensor

    def init_encoder(self) -> None:
        """Initialize the encoder of degraded images from the clean VQ-VAE's encoder."""
        self.encoder.load_state_dict(self.vqvae.encoder.state_dict())
        self.quant_conv.load_state_dict(self.vqvae.quant_conv.state_dict())

    def forward(
        self,
        thumbnail: Tensor,
        task: Tensor,
        crops: Tensor | None = None,
        probabilities: Tensor | None = None,
    ) -> Prior:
        """Compute the prior.

        Args:
            thumbnail: (B, 3, 256, 256) in [0, 1], the whole degraded image.
            task: (B,) int64, 0 for unknown; else the only kind that is treated.
            crops: (B, N, 3, 64, 64) in [0, 1], pieces of it at native size; None where the
                thumbnail is the image at native size.
            probabilities: (B, 2, 6) in [0, 1], the first two rows of `Prior.found` to act on in
                place of the own ones; negative where the own ones count.
        """
        computed = self.features(thumbnail, task)
        small = self.shrinking @ thumbnail @ self.shrinking.T
        seen = self.judge.look(small, own_crops(thumbnail) if crops is None else crops)
        head = self.evidence(computed.features, computed.statistics)
        known = torch.stack([joined(self.judge.logits(seen), head), head_tone(head)], 1)
        if probabilities is not None:
            known = torch.where(probabilities < 0.0, known, probabilities)
        probability, head_shares = known.unbind(1)
        asked = confident_in_task(probability, head_shares, task)
        treated = considered(task)
        belief = torch.maximum(confident(probability) * treated, asked)
        grid = torch.lerp(
            self.judge.grid(seen, belief),
            self.tone(computed.features, computed.statistics, belief),
            tone_share(head_shares, belief, asked)[:, None, None, None],
        )
        certainty = tone_certainty(grid, thumbnail, belief)
        evidence = tell(probability, asked) * treated
        acted = torch.where(self.tone_only, belief * (certainty > 0.0)[:, None], evidence)
        found = torch.cat([known, torch.stack([seen.strength, acted], 1)], 1)
        grid = grid * certainty[:, None, None, None]
        return Prior(computed.increments, grid, evidence, found)

    def features(self, thumbnail: Tensor, task: Tensor) -> PriorFeatures:
        """Compute everything before the heads; arguments as in `forward`."""
        quantize = self.vqvae.quantize
        features = self.encoder.features(2.0 * thumbnail - 1.0)
        adapted = self.adapter(self.quant_conv(self.encoder.project(features)))
        pools = [flatten(quantize.pool(adapted, k)) for k in range(1, len(SCALES))]
        memory = torch.cat([flatten(features), flatten(adapted)], -1)
        tokens, logits = self.transformer(torch.cat(pools, 1), memory, task)
        increments = self.expectation(logits)
        finest = split_scales(tokens)[-1].transpose(1, 2).unflatten(2, (SCALES[-1], SCALES[-1]))
        together = torch.cat([features, finest, increments.sum(1)], 1)
        return PriorFeatures(increments, together, cell_statistics(thumbnail), logits, adapted)

    def expectation(self, logits: Tensor) -> Tensor:
        """Return S (B, 10, 32, 16, 16): the increments of each token's expected code.

        It is continuous, so that no token changes between devices and precisions
        (engine/networks/README.md).
        """
        quantize = self.vqvae.quantize
        vectors = logits.softmax(-1) @ quantize.embedding.weight  # (B, 680, latent)
        scales = enumerate(split_scales(vectors))
        return torch.stack([quantize.increment(rows, k) for k, rows in scales], 1)
