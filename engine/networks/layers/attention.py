"""What the next-scale transformers share: cosine self-attention over the scales so far.

Keys and values of earlier scales are handed from call to call as values. Source:
engine/networks/README.md.
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
    """Normalized keys and values (N, heads, M, width / heads) of what can be looked at."""

    keys: Tensor
    values: Tensor

    def concat(self, later: KeyValueCache) -> KeyValueCache:
        """This memory and a later one."""
        return KeyValueCache(
            torch.cat([self.keys, later.keys], 2), torch.cat([self.values, later.values], 2)
        )


@dataclass(frozen=True)
class RotaryEmbedding:
    """Rotations of L tokens: cosines and sines (L, d / 2) of one angle per pair of channels."""

    cosines: Tensor
    sines: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Turn each pair of neighboring channels of (N, heads, L, d) by its token's angle."""
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = (
            first * self.cosines - second * self.sines,
            first * self.sines + second * self.cosines,
        )
        return torch.stack(turned, -1).flatten(-2)


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
        memory: KeyValueCache | None,
        rotary: RotaryEmbedding | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, KeyValueCache]:
        """Attend.

        Args:
            x: (N, L, width), the tokens of a scale, or of all scales under a mask.
            memory: of the coarser scales.
            rotary: where the tokens are, if keys and queries carry their positions.
            mask: (L, M) bool, True where a query may look.

        Returns:
            (N, L, width), and the memory with these tokens added.
        """
        q, k, v = self.qkv(x).chunk(3, -1)
        q = unit_heads(q + self.query_bias, self.heads)
        k = unit_heads(k, self.heads)
        sharp = q * inverse_temperature(self.sharpness)
        if rotary is not None:
            sharp, k = rotary.apply(sharp), rotary.apply(k)
        new = KeyValueCache(k, split_heads(v + self.value_bias, self.heads))
        known = new if memory is None else memory.concat(new)
        return self.project(cosine_attention(sharp, known, mask)), known


class MultiHeadAttention(nn.Module):
    """Multi-head attention of queries (B, L, width) over a memory (B, M, memory).

    `bias` is that of queries, keys and values.
    """

    def __init__(self, width: int, heads: int, memory: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=bias)
        self.key_value = nn.Linear(memory, 2 * width, bias=bias)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend; `mask` (L, M) is True where a query may look."""
        q = split_heads(self.query(x), self.heads)
        k, v = (split_heads(part, self.heads) for part in self.key_value(memory).chunk(2, -1))
        return self.project(multi_head_attention(q, k, v, mask))


def init_log_inverse_temperature(heads: int) -> nn.Parameter:
    """A learned log inverse temperature per head, (1, heads, 1, 1)."""
    return nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))


def inverse_temperature(log_sharp: Tensor) -> Tensor:
    """What multiplies the cosines before the softmax."""
    return log_sharp.clamp_max(MAX_LOG_INVERSE_TEMPERATURE).exp()


def unit_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, width) to unit vectors (N, heads, L, width / heads)."""
    return functional.normalize(split_heads(x, heads), dim=-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, width) to (N, heads, L, width / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(N, heads, L, d) to (N, L, heads * d); the inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def cosine_attention(queries: Tensor, memory: KeyValueCache, mask: Tensor | None = None) -> Tensor:
    """Attend with scaled queries (N, heads, L, d); gives (N, L, heads * d).

    Under a mask all scales are there at once, in training: there the weights, millions per head,
    are better never kept. Without, plain products keep to the released networks' rounding.
    """
    if mask is None:
        weights = (queries @ memory.keys.transpose(-2, -1)).softmax(-1)
        return join_heads(weights @ memory.values)
    return multi_head_attention(queries, memory.keys, memory.values, mask, scale=1.0)


def multi_head_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: float | None = None
) -> Tensor:
    """Attention of (N, heads, L, d) over (N, heads, M, d) as (N, L, heads * d).

    Args:
        q: queries.
        k: keys.
        v: values.
        mask: (L, M) bool, True where a query may look.
        scale: multiplies the products; 1 / sqrt(d) if not given.
    """
    found = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return join_heads(found)


def dot_product_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V for (N, L, d), (N, M, d), (N, M, d)."""
    logits = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    return logits.softmax(-1) @ value


def affine_free_norm(width: int) -> nn.LayerNorm:
    """Layer normalization without a learned part, with VAR's epsilon."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def init_weights(module: nn.Linear | nn.Embedding) -> None:
    """VAR's first weights: truncated normal, deviation sqrt(1 / (3 inputs)); biases of zero."""
    nn.init.trunc_normal_(module.weight, std=math.sqrt(1.0 / (3.0 * module.weight.shape[1])))
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def feed_forward(width: int) -> nn.Sequential:
    """VAR's feed-forward part."""
    return nn.Sequential(
        nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
    )


def rotary_angles(scales: tuple[int, ...], channels: int) -> Tensor:
    """Angles (L, channels / 2) of all tokens: the first half rotary by row, the second by column.

    Args:
        scales: sides of the token maps, coarse to fine.
        channels: of a head, a multiple of 4.
    """
    frequencies = ROTARY_BASE ** (-4.0 * _arange(channels // 4) / channels)
    maps = [_arange(p) / p * scales[-1] for p in scales]
    rows = torch.cat([axis.repeat_interleave(len(axis)) for axis in maps])
    columns = torch.cat([axis.repeat(len(axis)) for axis in maps])
    return torch.cat([torch.outer(rows, frequencies), torch.outer(columns, frequencies)], 1)


def _arange(count: int) -> Tensor:
    """0, 1, 2, ...; exact, and on the CPU even where parameters are not (as `area_matrix`)."""
    return torch.arange(count, dtype=torch.float64, device="cpu")
