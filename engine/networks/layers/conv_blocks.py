"""Convolutional blocks of the VQ-VAE and of the networks built on it.

Names of parameters follow the published VQ-VAE checkpoint, so that it loads without renaming.
Source: engine/networks/README.md.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """Return an affine group normalization with the VQ-VAE's epsilon."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResBlock(nn.Module):
    """Pre-activation residual block: twice norm, SiLU, 3x3 convolution; plus a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, groups: int = 32) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out, groups)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.nin_shortcut = (
            nn.Identity()
            if channels_in == channels_out
            else nn.Conv2d(channels_in, channels_out, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, H, W)."""
        h = self.conv1(functional.silu(self.norm1(x)))
        h = self.conv2(functional.silu(self.norm2(h)))
        shortcut: Tensor = self.nin_shortcut(x)
        return shortcut + h


class AttentionBlock(nn.Module):
    """Single-head self-attention over all positions of a feature map, with a residual."""

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        B, C, H, W = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(B, 3, C, H * W).unbind(1)  # (B, C, L)
        logits = q.transpose(1, 2) @ k * C**-0.5  # (B, L, L)
        attention = v @ logits.softmax(-1).transpose(1, 2)  # (B, C, L)
        projected: Tensor = self.proj_out(attention.reshape(B, C, H, W))
        return x + projected


class Downsample(nn.Module):
    """Halves a map: zeros on the right and bottom only, then a strided 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H / 2, W / 2)."""
        return self.conv(functional.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Doubles a map: nearest neighbor, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 2 H, 2 W)."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class Middle(nn.Module):
    """The bottleneck: residual block, attention, residual block."""

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.block_1 = ResBlock(channels, channels, groups)
        self.attn_1 = AttentionBlock(channels, groups)
        self.block_2 = ResBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return self.block_2(self.attn_1(self.block_1(x)))


class Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention if `has_attention`.

    `block` and `attn` are names of the published checkpoint; the resampling that follows a level
    is called `downsample` or `upsample` there and belongs to the encoder or decoder.
    """

    def __init__(self, channels: list[int], has_attention: bool, groups: int = 32) -> None:
        """Build the blocks; `channels` lists the input's and then each block's channels."""
        super().__init__()
        pairs = list(pairwise(channels))
        self.block = nn.ModuleList(ResBlock(a, b, groups) for a, b in pairs)
        self.attn = nn.ModuleList(AttentionBlock(b, groups) for _, b in pairs if has_attention)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels[0], H, W) to (B, channels[-1], H, W)."""
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn) > 0:
                x = self.attn[i](x)
        return x


def area_matrix(source: int, target: int) -> Tensor:
    """Return adaptive average pooling along one axis as a (target, source) matrix.

    Constant matrices export to ONNX for every size; the pooling operator does not when
    `target` does not divide `source`. The matrix is computed on the CPU even when the network is
    built on the meta device, as loading does.
    """
    eye = torch.eye(source, device="cpu")
    return functional.adaptive_avg_pool1d(eye[None], target)[0].T.contiguous()


def bicubic_matrix(source: int, target: int) -> Tensor:
    """Return bicubic enlargement (a = -0.75, half-pixel centers) as a (target, source) matrix."""
    columns = torch.eye(source, device="cpu").reshape(1, source, source, 1)
    resized = functional.interpolate(columns, size=(target, 1), mode="bicubic")
    return resized[0, :, :, 0].T.contiguous()


def resample(x: Tensor, matrix: Tensor) -> Tensor:
    """Apply a separable (target, source) matrix to both axes of (B, C, source, source)."""
    return matrix @ x @ matrix.T
