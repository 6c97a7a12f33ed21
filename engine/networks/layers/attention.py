"""Attention of the next-scale transformers: cosine attention, caches, rotary positions.

Keys and values of coarser scales are passed from call to call, so that modules keep no state.
Source: engine/networks/README.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

ROTARY_BASE = 10000.0

MAX_LOG_INVERSE_TEMPERATURE = math.log(100.0)
"""Upper limit of a head's learned log inverse temperature."""


@dataclass(frozen=True)
class KeyValueCache:
    """Normalized keys and values (N, heads, M, width / heads) of earlier tokens."""

    keys: Tensor
    values: Tensor

    def concat(self, later: KeyValueCache) -> KeyValueCache:
        """Return a cache of these tokens and later ones."""
        return KeyValueCache(
            torch.cat([self.keys, later.keys], 2), torch.cat([self.values, later.values], 2)
        )


@dataclass(frozen=True)
class RotaryEmbedding:
    """Cosines and sines (L, d / 2) of L tokens: one angle per pair of channels."""

    cosines: Tensor
    sines: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Rotate each pair of neighboring channels of (N, heads, L, d) by its token's angle."""
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        rotated = (
            first * self.cosines - second * self.sines,
            first * self.sines + second * self.cosines,
        )
        return torch.stack(rotated, -1).flatten(-2)


class SelfAttention(nn.Module):
    """Cosine attention of a scale over itself and all coarser ones."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.sharpness = init_log_inverse_temperature(heads)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.project = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        cache: KeyValueCache | None,
        rotary: RotaryEmbedding | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, KeyValueCache]:
        """Attend.

        Args:
            x: (N, L, width), the tokens of a scale, or of all scales under a mask.
            cache: Keys and values of the coarser scales.
            rotary: Positions of the tokens, if queries and keys contain them.
            mask: (L, M) bool, True where a query attends to a key.

        Returns:
            (N, L, width), and the cache with these tokens added.
        """
        q, k, v = self.qkv(x).chunk(3, -1)
        q = unit_heads(q + self.query_bias, self.heads)
        k = unit_heads(k, self.heads)
        scaled = q * inverse_temperature(self.sharpness)
        if rotary is not None:
            scaled, k = rotary.apply(scaled), rotary.apply(k)
        new = KeyValueCache(k, split_heads(v + self.value_bias, self.heads))
        extended = new if cache is None else cache.concat(new)
        return self.project(cosine_attention(scaled, extended, mask)), extended


class MultiHeadAttention(nn.Module):
    """Multi-head attention of queries (B, L, width) over a memory (B, M, memory).

    `bias` applies to queries, keys and values.
    """

    def __init__(self, width: int, heads: int, memory: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key_value = nn.Linear(memory, 2 * width, bias=bias)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend; `mask` (L, M) is True where a query attends to a key."""
        q = split_heads(self.query(x), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.key_value(memory).chunk(2, -1))
        return self.project(multi_head_attention(q, k, v, mask))


def init_log_inverse_temperature(heads: int) -> nn.Parameter:
    """Return a learned log inverse temperature per head, (1, heads, 1, 1)."""
    return nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))


def inverse_temperature(log_inverse: Tensor) -> Tensor:
    """Return the factor of the cosines before the softmax."""
    return log_inverse.clamp_max(MAX_LOG_INVERSE_TEMPERATURE).exp()


def unit_heads(x: Tensor, heads: int) -> Tensor:
    """Return (N, L, width) as unit vectors (N, heads, L, width / heads)."""
    return functional.normalize(split_heads(x, heads), dim=-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return (N, L, width) as (N, heads, L, width / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Return (N, heads, L, d) as (N, L, heads * d); the inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def cosine_attention(queries: Tensor, cache: KeyValueCache, mask: Tensor | None = None) -> Tensor:
    """Attend with scaled queries (N, heads, L, d); return (N, L, heads * d).

    With a mask, in training, all scales are processed at once: a fused kernel does not store the
    weights, millions per head. Without, plain products round as the published networks do.
    """
    if mask is None:
        weights = (queries @ cache.keys.transpose(-2, -1)).softmax(-1)
        return join_heads(weights @ cache.values)
    return multi_head_attention(queries, cache.keys, cache.values, mask, scale=1.0)


def multi_head_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attend with (N, heads, L, d) over (N, heads, M, d); return (N, L, heads * d).

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        mask: (L, M) bool, True where a query attends to a key.
        scale: Factor of the products; 1 / sqrt(d) by default.
    """
    found = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return join_heads(found)


def dot_product_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(Q K^T / sqrt(d)) V for (N, L, d), (N, M, d), (N, M, d)."""
    logits = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    return logits.softmax(-1) @ value


def affine_free_norm(width: int) -> nn.LayerNorm:
    """Return a layer normalization without learned scale and shift, with VAR's epsilon."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def init_weights(module: nn.Linear | nn.Embedding) -> None:
    """Initialize as VAR does: truncated normal, deviation sqrt(1 / (3 inputs)); biases zero."""
    nn.init.trunc_normal_(module.weight, std=math.sqrt(1.0 / (3.0 * module.weight.shape[1])))
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def feed_forward(width: int) -> nn.Sequential:
    """Return VAR's feed-forward layers."""
    return nn.Sequential(
        nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
    )


def rotary_angles(scales: tuple[int, ...], channels: int) -> Tensor:
    """Return the angles (L, channels / 2) of all tokens: first half by row, second half by column.

    Coarse maps are stretched to the grid of the finest, so that an angle is a place in the image,
    whatever the scale.

    Args:
        scales: Sides of the token maps, coarse to fine.
        channels: Channels of a head, a multiple of 4.
    """
    frequencies = ROTARY_BASE ** (-4.0 * _arange(channels // 4) / channels)
    maps = [_arange(p) / p * scales[-1] for p in scales]
    rows = torch.cat([axis.repeat_interleave(len(axis)) for axis in maps])
    columns = torch.cat([axis.repeat(len(axis)) for axis in maps])
    return torch.cat([torch.outer(rows, frequencies), torch.outer(columns, frequencies)], 1)


def _arange(count: int) -> Tensor:
    """Return 0, 1, 2, ...; exact, and on the CPU even on the meta device (see `area_matrix`)."""
    return torch.arange(count, dtype=torch.float64, device="cpu")
