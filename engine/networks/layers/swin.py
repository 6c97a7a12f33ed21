"""Residual Swin transformer blocks (SwinIR's RSTB; engine/networks/README.md)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from varfix.engine.networks.layers.windows import from_windows, to_windows

WINDOW = 4
SHIFT = 2
MASKED_LOGIT = -100.0
"""Added to the logits of two positions that are neighbors only because of the roll."""


def relative_index() -> Tensor:
    """Return (16, 16) int64: the row of the bias table for query i and key j of a window."""
    places = torch.arange(WINDOW * WINDOW, device="cpu")
    rows, columns = places // WINDOW, places % WINDOW
    span = 2 * WINDOW - 1
    dy = rows[:, None] - rows[None, :] + WINDOW - 1
    dx = columns[:, None] - columns[None, :] + WINDOW - 1
    return dy * span + dx


def shift_mask(side: int) -> Tensor:
    """Return what is added to the logits of a rolled map of `side` x `side`: (windows, 16, 16).

    The roll moves the far border next to the near one; bands distinguish the two.
    """
    band = torch.zeros(side, device="cpu")
    band[-WINDOW:] = 1.0
    band[-SHIFT:] = 2.0
    areas = (band[:, None] * 3.0 + band[None, :])[None, None]
    area = to_windows(areas, WINDOW)[..., 0]  # (windows, 16)
    return (area[:, :, None] != area[:, None, :]) * MASKED_LOGIT


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with a learned bias per relative position."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.register_buffer("index", relative_index(), persistent=False)

    def forward(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Map (N, 16, C) to the same shape; `mask` (windows, 16, 16) with N a multiple of it."""
        N, L, C = windows.shape
        split = self.qkv(windows).reshape(N, L, 3, self.heads, C // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, 16, C / heads)
        bias = self.bias_table[self.get_buffer("index")].permute(2, 0, 1)  # (heads, 16, 16)
        logits = (q * self.scale) @ k.transpose(-2, -1) + bias
        if mask is not None:
            logits = logits.unflatten(0, (-1, len(mask))) + mask[:, None]
            logits = logits.flatten(0, 1)
        attention = logits.softmax(-1) @ v
        return self.project(attention.transpose(1, 2).reshape(N, L, C))


class SwinBlock(nn.Module):
    """Window attention and feed-forward, both pre-norm; the windows optionally shifted.

    All operations stay within a window, so the map is split once and joined once.
    """

    def __init__(self, channels: int, heads: int, shifted_side: int | None = None) -> None:
        """Build a block; `shifted_side` is the map's side where its windows are shifted."""
        super().__init__()
        self.shift = 0 if shifted_side is None else SHIFT
        self.norm_attention = nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads)
        self.norm_feed = nn.LayerNorm(channels)
        self.feed = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )
        mask = None if shifted_side is None else shift_mask(shifted_side)
        self.mask: Tensor | None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W), sides multiples of 4, to the same shape."""
        H, W = x.shape[-2:]
        rolled = torch.roll(x, (-self.shift, -self.shift), (2, 3)) if self.shift else x
        windows = to_windows(rolled, WINDOW)  # (N, 16, C)
        windows = windows + self.attention(self.norm_attention(windows), self.mask)
        windows = windows + self.feed(self.norm_feed(windows))
        joined = from_windows(windows, WINDOW, (H, W))
        return torch.roll(joined, (self.shift, self.shift), (2, 3)) if self.shift else joined


class ResidualSwinBlock(nn.Module):
    """RSTB: a plain and a shifted Swin block, a 3x3 convolution, and a residual."""

    def __init__(self, channels: int, heads: int, side: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            SwinBlock(channels, heads), SwinBlock(channels, heads, shifted_side=side)
        )
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, side, side) to the same shape."""
        moved: Tensor = self.conv(self.blocks(x))
        return x + moved
