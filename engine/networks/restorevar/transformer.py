"""RestoreVAR's transformer: VAR predicts the clean tokens, conditioned on the degraded image.

Unlike VarFormer's, it has no AdaLN and no guidance; every block ends with a gated cross-attention
to the degraded latent, whose keys and values are the same for all scales and computed once.
Positions are rotary. Source: engine/networks/README.md, "RestoreVAR".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from varfix.engine.networks.layers.attention import (
    KeyValueCache,
    RotaryEmbedding,
    SelfAttention,
    affine_free_norm,
    cosine_attention,
    feed_forward,
    init_log_inverse_temperature,
    init_weights,
    inverse_temperature,
    multi_head_attention,
    rotary_angles,
    split_heads,
    unit_heads,
)
from varfix.engine.networks.layers.next_scale import Prediction, generate
from varfix.engine.networks.layers.probes import Probe, no_probe, prefixed, suffixed
from varfix.engine.networks.layers.quantizer import (
    FINE_SCALES,
    Quantizer,
    flatten,
    next_scale_mask,
    scale_of_token,
)

DROP_PER_BLOCK = 0.1 / 24
"""Published training: of 24 blocks, the last one would be dropped in a tenth of the cases."""


@dataclass(frozen=True)
class RestoreVarTransformerConfig:
    """Sizes of the transformer; the defaults are the published RestoreVAR's.

    Attributes:
        width: Channels.
        heads: Heads of both attentions.
        depth: Number of blocks.
        latent: Channels of the latent.
        codes: Entries of the codebook.
        classes: Classes of the pre-training, without the class "any".
        scales: Sides of the token maps.
    """

    width: int = 1024
    heads: int = 16
    depth: int = 16
    latent: int = 32
    codes: int = 4096
    classes: int = 1000
    scales: tuple[int, ...] = FINE_SCALES


@dataclass(frozen=True)
class Conditioning:
    """What the transformer receives from the degraded image, the same for all scales.

    Attributes:
        start: (B, 1, width), the only input of the first scale.
        caches: Keys and values of each block's cross-attention, (B, heads, side * side, width /
            heads).
    """

    start: Tensor
    caches: list[KeyValueCache]


@dataclass(frozen=True)
class AttentionContext:
    """What the tokens of one call attend to, and their positions.

    Attributes:
        degraded: Keys and values of the degraded image.
        coarser: Keys and values of the coarser scales; None for the first scale, and for all scales
            at once.
        rotary: Positions of the tokens.
        mask: (L, L) bool for all scales at once: True where a query attends to a key.
    """

    degraded: KeyValueCache
    coarser: KeyValueCache | None
    rotary: RotaryEmbedding
    mask: Tensor | None = None


@dataclass(frozen=True)
class GeneratedTokens:
    """The predicted tokens, and the last block's states of all tokens, (B, L, width)."""

    prediction: Prediction
    states: Tensor


class GatedCrossAttention(nn.Module):
    """Gated cosine attention to the degraded image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query = nn.LayerNorm(width)
        self.norm_key_value = nn.LayerNorm(width)
        self.sharpness = init_log_inverse_temperature(heads)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.project = nn.Linear(width, width)
        self.gain = nn.Parameter(torch.zeros(()))

    def keys_and_values(self, degraded: Tensor, rotary: RotaryEmbedding) -> KeyValueCache:
        """Return keys and values of the degraded image's tokens (B, M, width)."""
        k, v = self.key_value(self.norm_key_value(degraded)).chunk(2, -1)
        return KeyValueCache(rotary.apply(unit_heads(k, self.heads)), split_heads(v, self.heads))

    def forward(self, x: Tensor, cache: KeyValueCache, rotary: RotaryEmbedding) -> Tensor:
        """Return the gated result of the attention of (B, L, width), the same shape."""
        q = unit_heads(self.query(self.norm_query(x)), self.heads)
        scaled = rotary.apply(q * inverse_temperature(self.sharpness))
        if self.training:  # a fused kernel does not store a thousand weights per token and head
            found = multi_head_attention(scaled, cache.keys, cache.values, scale=1.0)
        else:
            found = cosine_attention(scaled, cache)
        return self.gain * self.project(found)


class RestoreVarBlock(nn.Module):
    """Self-attention, feed-forward, and cross-attention to the degraded image."""

    def __init__(self, config: RestoreVarTransformerConfig, drop: float) -> None:
        super().__init__()
        self.norm = affine_free_norm(config.width)
        self.attention = SelfAttention(config.width, config.heads)
        self.feed = feed_forward(config.width)
        self.cross = GatedCrossAttention(config.width, config.heads)
        self.keep = 1.0 - drop

    def forward(
        self, x: Tensor, context: AttentionContext, probe: Probe = no_probe
    ) -> tuple[Tensor, KeyValueCache]:
        """Map (B, L, width) to the same shape; also return the cache with these tokens added."""
        attention, extended = self.attention(
            self.norm(x), context.coarser, context.rotary, context.mask
        )
        probe("attention", attention)
        x = x + self.drop_path(attention)
        fed = self.feed(self.norm(x))
        probe("feed", fed)
        x = x + self.drop_path(fed)
        crossed = self.cross(x, context.degraded, context.rotary)
        probe("cross", crossed)
        return x + self.drop_path(crossed), extended

    def drop_path(self, branch: Tensor) -> Tensor:
        """In training, drop a branch (B, L, width) for some images (stochastic depth)."""
        if not self.training or self.keep == 1.0:
            return branch
        kept = torch.rand(len(branch), 1, 1, device=branch.device) < self.keep
        return branch * kept / self.keep


class RestoreVarTransformer(nn.Module):
    """The transformer with its embeddings and head."""

    def __init__(self, config: RestoreVarTransformerConfig) -> None:
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
            RestoreVarBlock(config, drop * i / max(1, config.depth - 1))
            for i in range(config.depth)
        )
        self.norm = affine_free_norm(width)
        self.head = nn.Linear(width, config.codes)
        angles = rotary_angles(config.scales, width // config.heads)
        self.register_buffer("cosines", angles.cos().float(), persistent=False)
        self.register_buffer("sines", angles.sin().float(), persistent=False)
        self.register_buffer("mask", next_scale_mask(config.scales), persistent=False)
        self.register_buffer("scale_of_token", scale_of_token(config.scales), persistent=False)

    def initialize(self) -> None:
        """Initialize the weights as the published training does."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                init_weights(module)
        with torch.no_grad():
            self.head.weight.mul_(0.02)
            for block in cast("list[RestoreVarBlock]", list(self.blocks)):
                for last in (block.attention.project, cast("nn.Linear", block.feed[2])):
                    last.weight.div_(math.sqrt(2.0 * len(self.blocks)))

    def forward(
        self,
        latent: Tensor,
        quantizer: Quantizer,
        probe: Probe = no_probe,
        tokens: Tensor | None = None,
    ) -> GeneratedTokens:
        """Predict the tokens of all scales.

        Args:
            latent: (B, latent, side, side) of the degraded image, before `quant_conv`.
            quantizer: Converts tokens to increments of the latent.
            probe: Receives the results of every block's branches, and its state.
            tokens: (B, L) int64, for teacher forcing; see `generate`.
        """
        return self.predict(self.conditioning(latent), quantizer, probe, tokens)

    def conditioning(self, latent: Tensor) -> Conditioning:
        """Return the conditioning of a degraded latent (B, latent, side, side)."""
        projected = self.project(flatten(latent))
        seen = self.degraded_tokens(projected)
        overall = self.whole_gain * self.whole(projected.mean(1, keepdim=True))
        start = self.condition.weight[-1] + overall + self.scale.weight[0]
        grid = self.rotary(len(self.scales) - 1)
        blocks = cast("list[RestoreVarBlock]", list(self.blocks))
        return Conditioning(start, [block.cross.keys_and_values(seen, grid) for block in blocks])

    def degraded_tokens(self, projected: Tensor) -> Tensor:
        """Return tokens (B, side^2, width) of a projected latent (B, side^2, latent)."""
        return self.degraded_word(projected) + self.degraded_scale.weight[0]

    def predict(
        self,
        conditioning: Conditioning,
        quantizer: Quantizer,
        probe: Probe = no_probe,
        tokens: Tensor | None = None,
    ) -> GeneratedTokens:
        """Predict with a given conditioning; the other arguments as in `forward`."""
        caches: list[KeyValueCache | None] = [None] * len(self.blocks)
        states: list[Tensor] = []

        def logits_of(k: int, pooled: Tensor | None) -> Tensor:
            state = conditioning.start if pooled is None else self.embed(flatten(pooled), k)
            seen = suffixed(probe, f"/s{k}")
            for b, block in enumerate(self.blocks):
                context = AttentionContext(conditioning.caches[b], caches[b], self.rotary(k))
                state, caches[b] = block(state, context, prefixed(seen, f"block{b}/"))
                seen(f"block{b}", state)
            states.append(state)
            return self.head(self.norm(state))

        return GeneratedTokens(generate(logits_of, quantizer, tokens), torch.cat(states, 1))

    def teacher_forced_logits(self, conditioning: Conditioning, pyramid: Tensor) -> Tensor:
        """Return the logits (B, L, codes) of all scales at once, given the clean image.

        Args:
            conditioning: Conditioning on the degraded image.
            pyramid: (B, L - 1, latent), the clean latent's prefixes (`Quantizer.pyramid`).
        """
        finer = self.word(pyramid) + self.scale(self.get_buffer("scale_of_token")[1:])
        state = torch.cat([conditioning.start, finer], 1)
        rotary = RotaryEmbedding(self.get_buffer("cosines"), self.get_buffer("sines"))
        mask = self.get_buffer("mask")
        for cache, block in zip(conditioning.caches, self.blocks, strict=True):
            state, _ = block(state, AttentionContext(cache, None, rotary, mask))
        return self.head(self.norm(state))

    def embed(self, rows: Tensor, scale: int) -> Tensor:
        """Return a scale's input (B, p * p, width), given the pooled latent (B, p * p, latent)."""
        return self.word(rows) + self.scale.weight[scale]

    def rotary(self, scale: int) -> RotaryEmbedding:
        """Return the positions of a scale's tokens."""
        first, count = sum(p * p for p in self.scales[:scale]), self.scales[scale] ** 2
        cosines, sines = self.get_buffer("cosines"), self.get_buffer("sines")
        return RotaryEmbedding(cosines.narrow(0, first, count), sines.narrow(0, first, count))
