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

from varfix.engine.networks.layers.rotary import Turns

SHARPEST = math.log(100.0)
"""Upper limit of a head's learned log inverse temperature."""


@dataclass(frozen=True)
class Memory:
    """Normalized keys and values (N, heads, M, width / heads) of what can be looked at."""

    keys: Tensor
    values: Tensor

    def followed_by(self, later: Memory) -> Memory:
        """This memory and a later one."""
        return Memory(
            torch.cat([self.keys, later.keys], 2), torch.cat([self.values, later.values], 2)
        )


class SelfAttention(nn.Module):
    """Cosine attention of a scale over itself and all coarser ones."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.sharpness = log_sharpness(heads)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(width))
        self.value_bias = nn.Parameter(torch.zeros(width))
        self.project = nn.Linear(width, width)

    def forward(
        self,
        x: Tensor,
        memory: Memory | None,
        turns: Turns | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Memory]:
        """Attend.

        Args:
            x: (N, L, width), the tokens of a scale, or of all scales under a mask.
            memory: of the coarser scales.
            turns: where the tokens are, if keys and queries carry their positions.
            mask: (L, M) bool, True where a query may look.

        Returns:
            (N, L, width), and the memory with these tokens added.
        """
        q, k, v = self.qkv(x).chunk(3, -1)
        q = directions(q + self.query_bias, self.heads)
        k = directions(k, self.heads)
        sharp = q * inverse_temperature(self.sharpness)
        if turns is not None:
            sharp, k = turns.apply(sharp), turns.apply(k)
        new = Memory(k, split_heads(v + self.value_bias, self.heads))
        known = new if memory is None else memory.followed_by(new)
        return self.project(attended(sharp, known, mask)), known


def log_sharpness(heads: int) -> nn.Parameter:
    """A learned log inverse temperature per head, (1, heads, 1, 1)."""
    return nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))


def inverse_temperature(log_sharp: Tensor) -> Tensor:
    """What multiplies the cosines before the softmax."""
    return log_sharp.clamp_max(SHARPEST).exp()


def directions(x: Tensor, heads: int) -> Tensor:
    """(N, L, width) to unit vectors (N, heads, L, width / heads)."""
    return functional.normalize(split_heads(x, heads), dim=-1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(N, L, width) to (N, heads, L, width / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """(N, heads, L, d) to (N, L, heads * d); the inverse of `split_heads`."""
    return x.transpose(1, 2).flatten(2)


def attended(queries: Tensor, memory: Memory, mask: Tensor | None = None) -> Tensor:
    """Attend with scaled queries (N, heads, L, d); gives (N, L, heads * d).

    Under a mask all scales are there at once, in training: there the weights, millions per head,
    are better never kept. Without, plain products keep to the released networks' rounding.
    """
    if mask is None:
        weights = (queries @ memory.keys.transpose(-2, -1)).softmax(-1)
        return join_heads(weights @ memory.values)
    return many_headed(queries, memory.keys, memory.values, mask, scale=1.0)


def many_headed(
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


def plain_norm(width: int) -> nn.LayerNorm:
    """Layer normalization without a learned part, with VAR's epsilon."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def draw_weights(module: nn.Linear | nn.Embedding) -> None:
    """VAR's first weights: truncated normal, deviation sqrt(1 / (3 inputs)); biases of zero."""
    nn.init.trunc_normal_(module.weight, std=math.sqrt(1.0 / (3.0 * module.weight.shape[1])))
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def feed_forward(width: int) -> nn.Sequential:
    """VAR's feed-forward part."""
    return nn.Sequential(
        nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
    )
