"""RestoreVAR's transformer: VAR writes the clean image's tokens with the degraded one in view.

Unlike VarFormer's, it has no AdaLN and no guidance; every block ends with a gated cross-attention
to the degraded latent, whose keys and values are the same for all scales and computed once.
Positions are rotations. Source: engine/networks/README.md, "RestoreVAR".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from varfix.engine.networks.layers.attention import (
    Memory,
    SelfAttention,
    attended,
    directions,
    draw_weights,
    feed_forward,
    inverse_temperature,
    log_sharpness,
    many_headed,
    plain_norm,
    split_heads,
)
from varfix.engine.networks.layers.next_scale import Predicted, generate
from varfix.engine.networks.layers.probes import Tap, after, ignore, under
from varfix.engine.networks.layers.quantizer import (
    FINE_SCALES,
    Quantizer,
    flatten,
    next_scale_mask,
    scale_of_token,
)
from varfix.engine.networks.layers.rotary import Turns, angles

DROP_PER_BLOCK = 0.1 / 24
"""Released training: the last of 24 blocks would be left out in a tenth of the cases."""


@dataclass(frozen=True)
class WriterConfig:
    """Sizes of the transformer; the defaults are the released RestoreVAR's.

    Attributes:
        width: channels.
        heads: heads of both attentions.
        depth: blocks.
        latent: channels of the latent.
        codes: entries of the codebook.
        classes: classes of the pre-training; one more stands for "any".
        scales: sides of the token maps.
    """

    width: int = 1024
    heads: int = 16
    depth: int = 16
    latent: int = 32
    codes: int = 4096
    classes: int = 1000
    scales: tuple[int, ...] = FINE_SCALES


@dataclass(frozen=True)
class Brief:
    """What the degraded image says to the transformer, once and for all scales.

    Attributes:
        start: (B, 1, width), the first scale's only input.
        memories: of each block's cross-attention, (B, heads, side * side, width / heads).
    """

    start: Tensor
    memories: list[Memory]


@dataclass(frozen=True)
class Sight:
    """What the tokens of one call may look at, and where they are.

    Attributes:
        degraded: the degraded image.
        coarser: the scales before; None for the first and for all scales at once.
        turns: the tokens' positions.
        mask: (L, L) bool where all scales are there at once: True where a query may look.
    """

    degraded: Memory
    coarser: Memory | None
    turns: Turns
    mask: Tensor | None = None


@dataclass(frozen=True)
class Written:
    """The clean image's tokens, and the last block's state of all of them, (B, L, width)."""

    predicted: Predicted
    states: Tensor


class Reading(nn.Module):
    """Gated cosine attention to the degraded image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(width)
        self.norm_key_value = nn.LayerNorm(width)
        self.sharpness = log_sharpness(heads)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.zeros(()))

    def remember(self, degraded: Tensor, turns: Turns) -> Memory:
        """Keys and values of the degraded image's tokens (B, M, width)."""
        k, v = self.key_value(self.norm_key_value(degraded)).chunk(2, -1)
        return Memory(turns.apply(directions(k, self.heads)), split_heads(v, self.heads))

    def forward(self, x: Tensor, memory: Memory, turns: Turns) -> Tensor:
        """What (B, L, width) gain from looking, the same shape."""
        q = directions(self.query(self.norm_query(x)), self.heads)
        sharp = turns.apply(q * inverse_temperature(self.sharpness))
        if self.training:  # a thousand weights per token and head are better never kept
            found = many_headed(sharp, memory.keys, memory.values, scale=1.0)
        else:
            found = attended(sharp, memory)
        return self.gain * self.project(found)


class Block(nn.Module):
    """Self-attention, feed-forward, and a look at the degraded image."""

    def __init__(self, config: WriterConfig, drop: float) -> None:
        super().__init__()
        self.norm = plain_norm(config.width)
        self.attention = SelfAttention(config.width, config.heads)
        self.feed = feed_forward(config.width)
        self.cross = Reading(config.width, config.heads)
        self.keep = 1.0 - drop

    def forward(self, x: Tensor, sight: Sight, tap: Tap = ignore) -> tuple[Tensor, Memory]:
        """Map (B, L, width) to the same shape; also return the memory with these tokens added."""
        heard, known = self.attention(self.norm(x), sight.coarser, sight.turns, sight.mask)
        tap("attention", heard)
        x = x + self.sometimes(heard)
        fed = self.feed(self.norm(x))
        tap("feed", fed)
        x = x + self.sometimes(fed)
        read = self.cross(x, sight.degraded, sight.turns)
        tap("cross", read)
        return x + self.sometimes(read), known

    def sometimes(self, branch: Tensor) -> Tensor:
        """In training, leave a branch (B, L, width) out for some images (stochastic depth)."""
        if not self.training or self.keep == 1.0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) < self.keep
        return branch * kept / self.keep


class Writer(nn.Module):
    """The transformer with its embeddings and head."""

    def __init__(self, config: WriterConfig) -> None:
        super().__init__()
        width, drop = config.width, DROP_PER_BLOCK * config.depth
        self.scales = config.scales
        self.condition = nn.Embedding(config.classes + 1, width)
        self.word = nn.Linear(config.latent, width)
        self.scale = nn.Embedding(len(config.scales), width)
        self.project = nn.Linear(config.latent, config.latent)
        self.whole = nn.Linear(config.latent, width)
        self.whole_gain = nn.Parameter(torch.zeros(()))
        self.degraded_word = nn.Linear(config.latent, width)
        self.degraded_scale = nn.Embedding(1, width)
        self.blocks = nn.ModuleList(
            Block(config, drop * i / max(1, config.depth - 1)) for i in range(config.depth)
        )
        self.norm = plain_norm(width)
        self.head = nn.Linear(width, config.codes)
        turned = angles(config.scales, width // config.heads)
        self.register_buffer("cosines", turned.cos().float(), persistent=False)
        self.register_buffer("sines", turned.sin().float(), persistent=False)
        self.register_buffer("mask", next_scale_mask(config.scales), persistent=False)
        self.register_buffer("scale_of_token", scale_of_token(config.scales), persistent=False)

    def initialize(self) -> None:
        """Draw the released training's first weights."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                draw_weights(module)
        with torch.no_grad():
            self.head.weight.mul_(0.02)
            for block in cast("list[Block]", list(self.blocks)):
                for last in (block.attention.project, cast("nn.Linear", block.feed[2])):
                    last.weight.div_(math.sqrt(2.0 * len(self.blocks)))

    def forward(
        self,
        latent: Tensor,
        quantizer: Quantizer,
        tap: Tap = ignore,
        tokens: Tensor | None = None,
    ) -> Written:
        """Predict the tokens of all scales.

        Args:
            latent: (B, latent, side, side) of the degraded image, before `quant_conv`.
            quantizer: turns tokens into increments of the latent.
            tap: receives every block's branches and state.
            tokens: (B, L) int64 to build on; see `generate`.
        """
        return self.write(self.brief(latent), quantizer, tap, tokens)

    def brief(self, latent: Tensor) -> Brief:
        """What there is to know of a degraded latent (B, latent, side, side)."""
        projected = self.project(flatten(latent))
        seen = self.degraded_tokens(projected)
        overall = self.whole_gain * self.whole(projected.mean(1, keepdim=True))
        start = self.condition.weight[-1] + overall + self.scale.weight[0]
        grid = self.turns(len(self.scales) - 1)
        blocks = cast("list[Block]", list(self.blocks))
        return Brief(start, [block.cross.remember(seen, grid) for block in blocks])

    def degraded_tokens(self, projected: Tensor) -> Tensor:
        """(B, side * side, width) of (B, side * side, latent)."""
        return self.degraded_word(projected) + self.degraded_scale.weight[0]

    def write(
        self,
        brief: Brief,
        quantizer: Quantizer,
        tap: Tap = ignore,
        tokens: Tensor | None = None,
    ) -> Written:
        """Predict with a given brief; the other arguments as in `forward`."""
        memories: list[Memory | None] = [None] * len(self.blocks)
        states: list[Tensor] = []

        def logits_of(k: int, pooled: Tensor | None) -> Tensor:
            state = brief.start if pooled is None else self.embed(flatten(pooled), k)
            seen = after(tap, f"/s{k}")
            for b, block in enumerate(self.blocks):
                sight = Sight(brief.memories[b], memories[b], self.turns(k))
                state, memories[b] = block(state, sight, under(seen, f"block{b}/"))
                seen(f"block{b}", state)
            states.append(state)
            return self.head(self.norm(state))

        return Written(generate(logits_of, quantizer, tokens), torch.cat(states, 1))

    def score(self, brief: Brief, pyramid: Tensor) -> Tensor:
        """Logits (B, L, codes) of all scales at once, given the clean image (teacher forcing).

        Args:
            brief: of the degraded image.
            pyramid: (B, L - 1, latent), the clean latent's prefixes (`Quantizer.pyramid`).
        """
        finer = self.word(pyramid) + self.scale(self.get_buffer("scale_of_token")[1:])
        state = torch.cat([brief.start, finer], 1)
        turns = Turns(self.get_buffer("cosines"), self.get_buffer("sines"))
        mask = self.get_buffer("mask")
        for memory, block in zip(brief.memories, self.blocks, strict=True):
            state, _ = block(state, Sight(memory, None, turns, mask))
        return self.head(self.norm(state))

    def embed(self, rows: Tensor, scale: int) -> Tensor:
        """Input (B, p * p, width) of a scale, given the pooled latent (B, p * p, latent)."""
        return self.word(rows) + self.scale.weight[scale]

    def turns(self, scale: int) -> Turns:
        """The positions of a scale's tokens."""
        first, count = sum(p * p for p in self.scales[:scale]), self.scales[scale] ** 2
        cosines, sines = self.get_buffer("cosines"), self.get_buffer("sines")
        return Turns(cosines.narrow(0, first, count), sines.narrow(0, first, count))
