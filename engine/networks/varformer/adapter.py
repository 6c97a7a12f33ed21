"""The adapter of VarFormer: moves a degraded latent toward clean ones (section 3.2 of the paper).

The paper describes self-attention; the published network is convolutional: gating, large depthwise
kernels and brightness curves (engine/networks/README.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from varfix.engine.networks.layers.probes import Probe, no_probe

GROUPS = 4
"""Channel groups of the curve convolution."""

CURVES = 3
"""Number of times that a curve is applied."""


class ChannelLayerNorm(nn.LayerNorm):
    """Layer normalization over the channels of each pixel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class LargeKernel(nn.Module):
    """Spatial gate: depthwise 5x5, dilated depthwise 7x7, projection to half the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.near = nn.Conv2d(wide, wide, 5, padding=2, groups=wide)
        self.far = nn.Conv2d(wide, wide, 7, padding=9, dilation=3, groups=wide)
        self.halve = nn.Conv2d(wide, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 2 C, H, W) to (B, C, H, W)."""
        return self.halve(self.far(self.near(x)))


class Curve(nn.Module):
    """Applies quadratic curves to a channel group; the other groups predict them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        others = (GROUPS - 1) * channels
        self.predict = nn.Sequential(
            nn.Conv2d(others, channels, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(channels, CURVES, 1),
            nn.Sigmoid(),
        )
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, group: Tensor, others: Tensor) -> Tensor:
        """Map the group (B, C, H, W), given the others (B, 3 C, H, W)."""
        value = group.clamp(0.0, 1.0)
        for slope in self.predict(others).split(1, dim=1):  # (B, 1, H, W)
            value = value + slope * value * (1.0 - value)
        return self.conv(value)


class CurveConv(nn.Module):
    """One curve per channel group."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.curves = nn.ModuleList(Curve(channels // GROUPS) for _ in range(GROUPS))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        groups = x.chunk(GROUPS, dim=1)
        adjusted = [
            curve(groups[i], torch.cat(groups[:i] + groups[i + 1 :], 1))
            for i, curve in enumerate(self.curves)
        ]
        return torch.cat(adjusted, 1)


class AdapterBlock(nn.Module):
    """Gated convolutions, then the curve convolution; each a scaled residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.norm_gate = ChannelLayerNorm(channels)
        self.widen_gate = nn.Conv2d(channels, wide, 1)
        self.depthwise = nn.Conv2d(wide, wide, 3, padding=1, groups=wide)
        self.spatial = LargeKernel(channels)
        self.overall = nn.Conv2d(wide, channels, 1)
        self.project_gate = nn.Conv2d(channels, channels, 1)
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.norm_curve = ChannelLayerNorm(channels)
        self.widen_curve = nn.Conv2d(channels, wide, 1)
        self.curve = CurveConv(channels)
        self.project_curve = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        wide = self.depthwise(self.widen_gate(self.norm_gate(x)))
        overall = self.overall(wide.mean((2, 3), keepdim=True))
        gated = overall * self.spatial(wide) * gate_halves(wide)
        y = x + self.beta * self.project_gate(gated)
        adjusted = self.curve(gate_halves(self.widen_curve(self.norm_curve(y))))
        moved: Tensor = self.gamma * self.project_curve(adjusted)
        return y + moved


def gate_halves(x: Tensor) -> Tensor:
    """Return the first half of the channels of (B, 2 C, H, W) times the second: (B, C, H, W)."""
    first, second = x.chunk(2, dim=1)
    return first * second


class CurveAdapter(nn.Module):
    """A sequence of adapter blocks."""

    def __init__(self, channels: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(AdapterBlock(channels) for _ in range(blocks))

    def forward(self, latent: Tensor, probe: Probe = no_probe) -> Tensor:
        """Map (B, latent, 16, 16) to the same shape."""
        for i, block in enumerate(self.blocks):
            latent = block(latent)
            probe(f"blk{i}", latent)
        return latent
