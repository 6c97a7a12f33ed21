"""The image-level prior of VarFormer-S: a thumbnail in, the paper's S and a tone grid out.

Two networks stand side by side: the judge says what is wrong and how tone changes, the other part
is the paper's.

The degraded thumbnail is encoded, its latent moved toward clean ones by the adapter, the
next-scale transformer predicts the clean tokens, and the softmax expectation over the codebook
(instead of the most likely code) makes S continuous. Sources: VarFormer, section 3.2 and
figure 4; engine/networks/README.md for what differs.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from varfix.engine.networks.layers.conv_blocks import AttentionBlock, ResBlock
from varfix.engine.networks.layers.quantizer import SCALES, flatten, split_scales
from varfix.engine.networks.layers.vqvae import Encoder, Vqvae, VqvaeConfig
from varfix.engine.networks.varformer_s.decisions import (
    confident,
    confident_in_task,
    second_opinion,
    tell,
)
from varfix.engine.networks.varformer_s.degradation_head import (
    KINDS,
    DegradationHead,
    cell_statistics,
)
from varfix.engine.networks.varformer_s.judge import SIDE, Judge, averaging, own_crops
from varfix.engine.networks.varformer_s.tone_grid import GRID_CHANNELS, suppress_uncertain
from varfix.engine.networks.varformer_s.transformer import NextScaleTransformer, TransformerConfig

SMALL_VQVAE = VqvaeConfig(
    channels=64, multipliers=(1, 2, 3), blocks=1, latent=32, codes=1024, groups=16, patch=4
)


@dataclass(frozen=True)
class PriorConfig:
    """Sizes of the prior."""

    vqvae: VqvaeConfig = SMALL_VQVAE
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    adapter: int = 96


@dataclass(frozen=True)
class Prior:
    """What the prior says about an image.

    Attributes:
        increments: S, (B, 10, 32, 16, 16): the predicted increment of every scale (eq. 2).
        grid: (B, 96, 16, 16), the tone grid; zero is the identity.
        evidence: (B, 6) in [0, 1], what the restorer is told is wrong, of `KINDS`.
        found: (B, 3, 6) in [0, 1]: how likely each of `KINDS` is, how strong it is if it is there,
            and how far it is acted on.
    """

    increments: Tensor
    grid: Tensor
    evidence: Tensor
    found: Tensor

    @property
    def maps(self) -> Tensor:
        """S, the grid and the evidence as the map (B, 422, 16, 16) that is cropped to tiles."""
        return join_maps(self.increments, self.grid, self.evidence)


@dataclass(frozen=True)
class Predicted:
    """What the paper's part of the prior predicts.

    Attributes:
        increments: S, as in `Prior`.
        logits: (B, 680, codes) of the tokens, for the feature-matching loss.
        adapted: (B, 32, 16, 16), the adapter's output F_a of eq. 7.
        features: (B, C, 16, 16), all that is known of each cell.
    """

    increments: Tensor
    logits: Tensor
    adapted: Tensor
    features: Tensor


THUMBNAIL = 256
"""Side of the thumbnail in pixels."""

MAP_CHANNELS = len(SCALES) * SMALL_VQVAE.latent + GRID_CHANNELS + len(KINDS)


def join_maps(increments: Tensor, grid: Tensor, evidence: Tensor) -> Tensor:
    """What is cropped to tiles: S, the tone grid, and the evidence, alike everywhere.

    Args:
        increments: (B, 10, 32, 16, 16).
        grid: (B, 96, 16, 16).
        evidence: (B, 6).

    Returns:
        (B, 422, 16, 16).
    """
    spread = evidence[:, :, None, None] + torch.zeros_like(grid[:, : len(KINDS)])
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
    """Encoder, adapter, transformer and codebook; and the judge."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.vqvae = Vqvae(config.vqvae)
        self.encoder = Encoder(config.vqvae)
        self.quant_conv = nn.Conv2d(config.vqvae.latent, config.vqvae.latent, 3, padding=1)
        self.adapter = Adapter(config.vqvae.latent, config.adapter)
        self.transformer = NextScaleTransformer(config.transformer)
        known = config.vqvae.widths[-1] + config.transformer.width + config.vqvae.latent
        self.evidence = DegradationHead(known)
        self.judge = Judge()
        self.register_buffer("shrinking", averaging(THUMBNAIL, SIDE), persistent=False)
        self.shrinking: Tensor

    def adopt_vqvae(self) -> None:
        """Start the trainable encoder of degraded images from the clean VQ-VAE's."""
        self.encoder.load_state_dict(self.vqvae.encoder.state_dict())
        self.quant_conv.load_state_dict(self.vqvae.quant_conv.state_dict())

    def forward(self, thumbnail: Tensor, task: Tensor, crops: Tensor | None = None) -> Prior:
        """Compute the prior.

        Args:
            thumbnail: (B, 3, 256, 256) in [0, 1], the whole degraded image.
            task: (B,) int64, 0 for unknown.
            crops: (B, N, 3, 64, 64) in [0, 1], pieces of it at native size; None where the
                thumbnail is the image at native size.
        """
        predicted = self.predict(thumbnail, task)
        second = self.evidence(predicted.features, cell_statistics(thumbnail))
        small = self.shrinking @ thumbnail @ self.shrinking.T
        seen = self.judge.look(small, own_crops(thumbnail) if crops is None else crops)
        probability = second_opinion(self.judge.logits(seen), second)
        belief = torch.maximum(confident(probability), confident_in_task(probability, task))
        grid = suppress_uncertain(self.judge.grid(seen, belief), thumbnail, belief)
        found = torch.stack([probability, seen.strength, belief], 1)
        return Prior(predicted.increments, grid, tell(probability, task), found)

    def predict(self, thumbnail: Tensor, task: Tensor) -> Predicted:
        """The paper's part; arguments as in `forward`."""
        quantize = self.vqvae.quantize
        features = self.encoder.features(2.0 * thumbnail - 1.0)
        adapted = self.adapter(self.quant_conv(self.encoder.project(features)))
        pools = [flatten(quantize.pool(adapted, k)) for k in range(1, len(SCALES))]
        memory = torch.cat([flatten(features), flatten(adapted)], -1)
        tokens, logits = self.transformer(torch.cat(pools, 1), memory, task)
        increments = self.expectation(logits)
        finest = split_scales(tokens)[-1].transpose(1, 2).unflatten(2, (SCALES[-1], SCALES[-1]))
        known = torch.cat([features, finest, increments.sum(1)], 1)
        return Predicted(increments, logits, adapted, known)

    def expectation(self, logits: Tensor) -> Tensor:
        """S (B, 10, 32, 16, 16): the expected code of every token, as increments.

        Continuous, so that no token flips between devices and precisions
        (engine/networks/README.md).
        """
        quantize = self.vqvae.quantize
        vectors = logits.softmax(-1) @ quantize.embedding.weight  # (B, 680, latent)
        scales = enumerate(split_scales(vectors))
        return torch.stack([quantize.increment(rows, k) for k, rows in scales], 1)
