"""VAR, the next-scale transformer, with the released cross-attention to the degraded image.

Scale by scale, coarse to fine, the tokens of the clean image are predicted from those already
predicted; the degraded image's own pyramid asks the questions. Keys and values of earlier
scales are handed from call to call as values. Source: engine/networks/README.md.
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
"""Rows per image: the two of classifier-free guidance, here of the same class."""


@dataclass(frozen=True)
class VarConfig:
    """Sizes of the transformer; the defaults are the released VarFormer's.

    Attributes:
        width: channels; VAR has 64 per block.
        heads: heads of the self-attention; VAR has one per block.
        depth: blocks.
        cross: how many of the first blocks are followed by cross-attention; VAR alone has none.
        cross_heads: heads of the cross-attention, whatever the depth.
        latent: channels of the latent.
        codes: entries of the codebook.
        classes: classes of the pre-training; one more stands for "any".
        guidance: strength of classifier-free guidance at the finest scale.
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
        self, x: Tensor, condition: Tensor, memory: KeyValueCache | None
    ) -> tuple[Tensor, KeyValueCache]:
        """Map (N, L, width) to the same shape, given a condition (width,) and the memory."""
        parts = self.modulation(functional.silu(condition)).chunk(6, -1)
        gain_attention, gain_feed, scale_attention, scale_feed, shift_attention, shift_feed = parts
        moved = self.norm(x) * (1.0 + scale_attention) + shift_attention
        attended, known = self.attention(moved, memory)
        x = x + gain_attention * attended
        fed: Tensor = self.feed(self.norm(x) * (1.0 + scale_feed) + shift_feed)
        return x + gain_feed * fed, known


class CrossAttention(nn.Module):
    """The degraded image's tokens ask, the transformer's state of the same scale answers.

    The answer replaces the state.
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

    def forward(self, question: Tensor, state: Tensor) -> Tensor:
        """Map a question and a state, both (2 B, L, width) with images slowest, to the next."""
        q = split_heads(self.query(question) + self.query_bias, self.heads)
        k, v = self.key_value(state).chunk(2, -1)
        k, v = split_heads(k, self.heads), split_heads(v + self.value_bias, self.heads)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.project(merge_heads_as_published(weights @ v))


def merge_heads_as_published(attended: Tensor) -> Tensor:
    """(2 B, heads, L, d) to (2 B, L, heads * d) in the released network's order.

    The released code transposes the wrong axes: per image, all vectors are listed by head, then
    guidance half, then position, and that list is cut into rows. Heads and positions mix, and the
    halves, equal until then, become different. The weights were trained so.
    """
    N, heads, L, d = attended.shape
    listed = attended.reshape(N // GUIDANCE_ROWS, GUIDANCE_ROWS, heads, L, d).transpose(1, 2)
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
            quantizer: rotary tokens into increments of the latent.
            probe: receives the state after every block (2 B, L, width), and the logits.
            tokens: (B, 680) int64 where they are known: each scale then builds on these, not on
                the most likely ones (teacher forcing).
        """
        questions = self.questions(pyramid)
        caches: list[KeyValueCache | None] = [None] * len(self.blocks)

        def logits_of(k: int, pooled: Tensor | None) -> Tensor:
            state = questions[k] if pooled is None else self.embed(pooled, k)
            seen = suffixed(probe, f"/s{k}")
            state, caches[:] = self.run(questions[k], state, caches, seen)
            halves = self.logits(state)
            seen("logits_precfg", halves)
            return self.guided(halves, k)

        return generate(logits_of, quantizer, tokens)

    def questions(self, pyramid: Tensor) -> list[Tensor]:
        """What the degraded image asks at each scale: ten times (2 B, p * p, width)."""
        begin = self.condition.weight[-1] + self.start + self.place(0)
        finer = pyramid.split([p * p for p in SCALES[1:]], dim=1)
        asked = [self.word(rows) + self.place(k) for k, rows in enumerate(finer, start=1)]
        return [
            begin.expand(GUIDANCE_ROWS * len(pyramid), -1, -1),
            *(rows.repeat_interleave(GUIDANCE_ROWS, dim=0) for rows in asked),
        ]

    def place(self, scale: int) -> Tensor:
        """(1, p * p, width): what tells the positions of a scale apart from all others."""
        return self.scale.weight[scale] + split_scales(self.position)[scale]

    def embed(self, pooled: Tensor, scale: int) -> Tensor:
        """State (2 B, p * p, width) from which a scale starts, given (B, latent, p, p)."""
        rows = self.word(flatten(pooled)) + self.place(scale)
        return rows.repeat_interleave(GUIDANCE_ROWS, dim=0)

    def run(
        self, question: Tensor, state: Tensor, caches: list[KeyValueCache | None], probe: Probe
    ) -> tuple[Tensor, list[KeyValueCache | None]]:
        """Take the state of a scale (2 B, L, width) through all blocks; also return caches."""
        condition, known = self.condition.weight[-1], list(caches)
        for b, block in enumerate(self.blocks):
            state, known[b] = block(state, condition, caches[b])
            probe(f"block{b}", state)
            if b < len(self.cross):
                state = self.cross[b](question, state)
                probe(f"cross{b}", state)
        return state, known

    def logits(self, state: Tensor) -> Tensor:
        """(2 B, L, codes) of a state (2 B, L, width)."""
        modulation = self.head_modulation(functional.silu(self.condition.weight[-1]))
        scale, shift = modulation.chunk(2, -1)
        return self.head(self.norm(state) * (1.0 + scale) + shift)

    def guided(self, logits: Tensor, scale: int) -> Tensor:
        """(B, L, codes): the first half of (2 B, L, codes), moved away from the second."""
        first, second = logits.unflatten(0, (-1, GUIDANCE_ROWS)).unbind(1)
        share = self.guidance * scale / (len(SCALES) - 1)
        return (1.0 + share) * first - share * second
