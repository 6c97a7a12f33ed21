"""RestoreVAR's latent refiner: it makes the latent of the predicted tokens continuous.

A small transformer over the latent's positions, with cross-attention to the last states of the
token transformer. Source:
engine/networks/README.md, "RestoreVAR".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from varfix.engine.networks.layers.attention import (
    MultiHeadAttention,
    init_weights,
    multi_head_attention,
    split_heads,
)
from varfix.engine.networks.layers.probes import Probe, no_probe, prefixed
from varfix.engine.networks.layers.quantizer import flatten


@dataclass(frozen=True)
class RefinerConfig:
    """Sizes of the refiner; the defaults are the published network's.

    Attributes:
        width: Channels.
        heads: Heads of both attentions.
        depth: Number of blocks.
        feed: Channels inside the feed-forward layers.
        latent: Channels of the latent.
        states: Channels of the transformer's states.
        side: Side of the latent.
        length: Positions in the table of the states; with fewer tokens, the first ones are used.
    """

    width: int = 384
    heads: int = 6
    depth: int = 12
    feed: int = 768
    latent: int = 32
    states: int = 1024
    side: int = 32
    length: int = 2240


class JointAttention(nn.Module):
    """Multi-head self-attention with one joint projection to queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, L, width) to the same shape."""
        q, k, v = (split_heads(part, self.heads) for part in self.qkv(x).chunk(3, -1))
        return self.project(multi_head_attention(q, k, v))


class RefinerBlock(nn.Module):
    """Self-attention, feed-forward and attention to the states; pre-norm."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        width = config.width
        self.norm_self = nn.LayerNorm(width)
        self.attention = JointAttention(width, config.heads)
        self.feed = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.feed),
            nn.GELU(),
            nn.Linear(config.feed, width),
        )
        self.norm_query = nn.LayerNorm(width)
        self.norm_key_value = nn.LayerNorm(width)
        self.cross = MultiHeadAttention(width, config.heads, width, bias=False)

    def forward(self, x: Tensor, states: Tensor, probe: Probe = no_probe) -> Tensor:
        """Map (B, M, width) to the same shape, given states (B, L, width)."""
        attention = self.attention(self.norm_self(x))
        probe("attention", attention)
        x = x + attention
        fed = self.feed(x)
        probe("feed", fed)
        x = x + fed
        crossed = self.cross(self.norm_query(x), self.norm_key_value(states))
        probe("cross", crossed)
        out: Tensor = x + crossed
        return out


class Refiner(nn.Module):
    """The latent refiner."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        width = config.width
        self.norm_latent = nn.LayerNorm(config.latent)
        self.enter_latent = nn.Linear(config.latent, width, bias=False)
        self.position = nn.Parameter(torch.randn(1, config.side**2, width) * 0.02)
        self.norm_states = nn.LayerNorm(config.states)
        self.enter_states = nn.Linear(config.states, width, bias=False)
        self.states_position = nn.Parameter(torch.randn(1, config.length, width) * 0.02)
        self.blocks = nn.ModuleList(RefinerBlock(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, config.latent, bias=False)

    def initialize(self) -> None:
        """Initialize the weights as the published training does."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                init_weights(module)

    def forward(self, latent: Tensor, states: Tensor, probe: Probe = no_probe) -> Tensor:
        """Return the continuous latent of a quantized one.

        Args:
            latent: (B, latent, side, side), the sum of the predicted increments.
            states: (B, L, states) of the transformer's last block, all scales in order.
            probe: Receives the results of every block's branches.
        """
        x = self.enter_latent(self.norm_latent(flatten(latent))) + self.position
        seen = self.enter_states(self.norm_states(states))
        seen = seen + self.states_position[:, : seen.shape[1]]
        for b, block in enumerate(self.blocks):
            x = block(x, seen, prefixed(probe, f"block{b}/"))
        correction = self.leave(self.norm(x)).transpose(1, 2)
        return latent + correction.reshape(latent.shape)
