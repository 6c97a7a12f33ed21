"""VAR, the next-scale transformer, with VarFormer's cross-attention to the degraded image.

Scale by scale, coarse to fine, it predicts the tokens of the clean image from those already
predicted; the degraded image's pyramid supplies the queries of the cross-attention. Keys and values
of earlier scales are passed from call to call. Source: engine/networks/README.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.attention import (
    KeyValueCache,
    SelfAttention,
    affine_free_norm,
    feed_forward,
    split_heads,
)
from varfix.engine.networks.layers.next_scale import Prediction, generate
from varfix.engine.networks.layers.probes import Probe, no_probe, suffixed
from varfix.engine.networks.layers.quantizer import SCALES, Quantizer, flatten, split_scales

GUIDANCE_ROWS = 2
"""Rows per image: the two of classifier-free guidance, here with the same class."""


@dataclass(frozen=True)
class VarConfig:
    """Sizes of the transformer; the defaults are the published VarFormer's.

    Attributes:
        width: Channels; VAR has 64 per block.
        heads: Heads of the self-attention; VAR has one per block.
        depth: Number of blocks.
        cross: Number of blocks that a cross-attention follows; VAR alone has none.
        cross_heads: Heads of the cross-attention, at any depth.
        latent: Channels of the latent.
        codes: Entries of the codebook.
        classes: Classes of the pre-training, without the class "any".
        guidance: Strength of classifier-free guidance at the finest scale.
    """

    width: int = 1024
    heads: int = 16
    depth: int = 16
    cross: int = 8
    cross_heads: int = 16
    latent: int = 32
    codes: int = 4096
    classes: int = 1000
    guidance: float = 0.5


class VarBlock(nn.Module):
    """Self-attention and feed-forward, both modulated by the condition (AdaLN)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.norm = affine_free_norm(width)
        self.attention = SelfAttention(width, heads)
        self.feed = feed_forward(width)

    def forward(
        self, x: Tensor, condition: Tensor, cache: KeyValueCache | None
    ) -> tuple[Tensor, KeyValueCache]:
        """Map (N, L, width) to the same shape, given a condition (width,) and the cache."""
        parts = self.modulation(functional.silu(condition)).chunk(6, -1)
        gain_attention, gain_feed, scale_attention, scale_feed, shift_attention, shift_feed = parts
        moved = self.norm(x) * (1.0 + scale_attention) + shift_attention
        heads_output, known = self.attention(moved, cache)
        x = x + gain_attention * heads_output
        fed: Tensor = self.feed(self.norm(x) * (1.0 + scale_feed) + shift_feed)
        return x + gain_feed * fed, known


class CrossAttention(nn.Module):
    """Cross-attention from the degraded image (queries) to the transformer's state (keys, values).

    The result replaces the state.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = 0.25 / math.sqrt(width // heads)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.project = nn.Linear(width, width)

    def forward(self, queries: Tensor, state: Tensor) -> Tensor:
        """Map queries and a state, both (2 B, L, width) with images slowest, to the next state."""
        q = split_heads(self.query(queries) + self.query_bias, self.heads)
        k, v = self.key_value(state).chunk(2, -1)
        k, v = split_heads(k, self.heads), split_heads(v + self.value_bias, self.heads)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.project(merge_heads_as_published(weights @ v))


def merge_heads_as_published(heads_output: Tensor) -> Tensor:
    """Return (2 B, heads, L, d) as (2 B, L, heads * d) in the order of the published network.

    The published code transposes the wrong axes: per image, it lists all vectors by head, guidance
    row and position, and splits the list into rows. Heads and positions mix, and the two rows,
    equal until then, become different. The weights were trained so.
    """
    N, heads, L, d = heads_output.shape
    listed = heads_output.reshape(N // GUIDANCE_ROWS, GUIDANCE_ROWS, heads, L, d).transpose(1, 2)
    return listed.reshape(N, L, heads * d)


class Var(nn.Module):
    """The transformer with its embeddings and head."""

    def __init__(self, config: VarConfig) -> None:
        super().__init__()
        width = config.width
        self.guidance = config.guidance
        self.condition = nn.Embedding(config.classes + 1, width)
        self.start = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.word = nn.Linear(config.latent, width)
        self.scale = nn.Embedding(len(SCALES), width)
        self.position = nn.Parameter(torch.randn(1, sum(p * p for p in SCALES), width) * 0.02)
        self.blocks = nn.ModuleList(VarBlock(width, config.heads) for _ in range(config.depth))
        self.cross = nn.ModuleList(
            CrossAttention(width, config.cross_heads) for _ in range(config.cross)
        )
        self.norm = affine_free_norm(width)
        self.head_modulation = nn.Linear(width, 2 * width)
        self.head = nn.Linear(width, config.codes)

    def forward(
        self,
        pyramid: Tensor,
        quantizer: Quantizer,
        probe: Probe = no_probe,
        tokens: Tensor | None = None,
    ) -> Prediction:
        """Predict the tokens of all scales.

        Args:
            pyramid: (B, 679, latent), the degraded latent pooled to scales 1..9.
            quantizer: Converts tokens to increments of the latent.
            probe: Receives the state after every block (2 B, L, width), and the logits.
            tokens: (B, 680) int64, for teacher forcing: each scale continues from these tokens.
        """
        queries = self.queries(pyramid)
        caches: list[KeyValueCache | None] = [None] * len(self.blocks)

        def logits_of(k: int, pooled: Tensor | None) -> Tensor:
            state = queries[k] if pooled is None else self.embed(pooled, k)
            seen = suffixed(probe, f"/s{k}")
            state, caches[:] = self.run(queries[k], state, caches, seen)
            logits = self.logits(state)
            seen("logits_precfg", logits)
            return self.guided(logits, k)

        return generate(logits_of, quantizer, tokens)

    def queries(self, pyramid: Tensor) -> list[Tensor]:
        """Return the queries of the degraded image by scale: ten times (2 B, p * p, width)."""
        begin = self.condition.weight[-1] + self.start + self.position_embedding(0)
        finer = pyramid.split([p * p for p in SCALES[1:]], dim=1)
        words = [
            self.word(rows) + self.position_embedding(k) for k, rows in enumerate(finer, start=1)
        ]
        return [
            begin.expand(GUIDANCE_ROWS * len(pyramid), -1, -1),
            *(rows.repeat_interleave(GUIDANCE_ROWS, dim=0) for rows in words),
        ]

    def position_embedding(self, scale: int) -> Tensor:
        """Return the embedding of scale and position, (1, p * p, width)."""
        return self.scale.weight[scale] + split_scales(self.position)[scale]

    def embed(self, pooled: Tensor, scale: int) -> Tensor:
        """Return the first state (2 B, p * p, width) of a scale, given (B, latent, p, p)."""
        rows = self.word(flatten(pooled)) + self.position_embedding(scale)
        return rows.repeat_interleave(GUIDANCE_ROWS, dim=0)

    def run(
        self, queries: Tensor, state: Tensor, caches: list[KeyValueCache | None], probe: Probe
    ) -> tuple[Tensor, list[KeyValueCache | None]]:
        """Run a scale's state (2 B, L, width) through all blocks; also return the caches."""
        condition, known = self.condition.weight[-1], list(caches)
        for b, block in enumerate(self.blocks):
            state, known[b] = block(state, condition, caches[b])
            probe(f"block{b}", state)
            if b < len(self.cross):
                state = self.cross[b](queries, state)
                probe(f"cross{b}", state)
        return state, known

    def logits(self, state: Tensor) -> Tensor:
        """Return the logits (2 B, L, codes) of a state (2 B, L, width)."""
        modulation = self.head_modulation(functional.silu(self.condition.weight[-1]))
        scale, shift = modulation.chunk(2, -1)
        return self.head(self.norm(state) * (1.0 + scale) + shift)

    def guided(self, logits: Tensor, scale: int) -> Tensor:
        """Return (B, L, codes): classifier-free guidance of the logits (2 B, L, codes)."""
        first, second = logits.unflatten(0, (-1, GUIDANCE_ROWS)).unbind(1)
        share = self.guidance * scale / (len(SCALES) - 1)
        return (1.0 + share) * first - share * second
