"""Fusion of the prior with the restorer: DAE, AFT and mix-up skips (VarFormer, eqs. 3 to 6).

No layer uses statistics of a whole tile: scale weights are per position, attention is restricted to
windows, and normalization is over channels. So a pixel's result does not depend on the position of
the tiles.

All weights, queries and mediators are computed from normalized features. Without normalization, the
features of the coarse levels grew until the softmax over regions gave them no weight. Half of the
network had no effect, until its large values suddenly reached the output (measured).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from varfix.engine.networks.layers.attention import dot_product_attention
from varfix.engine.networks.layers.quantizer import SCALES
from varfix.engine.networks.layers.windows import from_windows, to_windows

SLOPE = 0.1


class ChannelNorm(nn.Module):
    """Divides each position's features by their root mean square (Zhang and Sennrich 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        return x * (self.gain * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt())


class DegradationAwareEnhancement(nn.Module):
    """Weights the scales of the prior (eq. 3), then features and prior by region (eq. 4)."""

    def __init__(self, channels: int, latent: int = 32, hidden: int = 32) -> None:
        super().__init__()
        self.latent = latent
        self.scale_weights = self._head(channels, hidden, len(SCALES))
        self.project = nn.Conv2d(latent, channels, 3, padding=1)
        self.region_weights = self._head(2 * channels, hidden, 2)
        with torch.no_grad():
            # Initially the prior has a weight of 2 %, the softmax of (2, -2).
            self.region_weights.get_parameter("2.bias").copy_(torch.tensor([2.0, -2.0]))

    @staticmethod
    def _head(channels: int, hidden: int, maps: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LeakyReLU(SLOPE), nn.Conv2d(hidden, maps, 1)
        )

    def forward(self, features: Tensor, normalized: Tensor, increments: Tensor) -> Tensor:
        """Blend features with the weighted prior.

        Args:
            features: F, (B, C, H, W).
            normalized: F, normalized.
            increments: S at the same positions, (B, 10 * latent, H, W), scale-major.

        Returns:
            F_g, (B, C, H, W).
        """
        weights = self.scale_weights(normalized).softmax(1)  # (B, 10, H, W)
        stacked = increments.unflatten(1, (len(SCALES), self.latent))
        prior = self.project((weights[:, :, None] * stacked).sum(1))
        regions = self.region_weights(torch.cat([normalized, prior], 1)).softmax(1)
        return features * regions[:, :1] + prior * regions[:, 1:]


class AdaptiveFeatureTransformation(nn.Module):
    """Two-step attention through a small mediator (eq. 5), inside windows.

    The residual is F_g, as in the published code (the paper adds F): so the enhancement reaches the
    next layer before the attention is trained.
    """

    def __init__(self, channels: int, window: int, width: int = 64) -> None:
        super().__init__()
        self.window = window
        self.query = nn.Conv2d(channels, width, 1)
        self.key_value = nn.Conv2d(channels, 2 * width, 1)
        self.mediator = nn.Conv2d(2 * channels, width, 2, stride=2)
        self.norm = ChannelNorm(channels)
        self.project = nn.Conv2d(width, channels, 1)
        nn.init.normal_(self.project.weight, std=1e-2)  # not zero: see RestorerNetwork
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, normalized: Tensor, enhanced: Tensor) -> Tensor:
        """Map normalized F and F_g, both (B, C, H, W), to (B, C, H, W).

        H and W are multiples of the window.
        """
        H, W = normalized.shape[-2:]
        normalized_enhanced = self.norm(enhanced)
        q = to_windows(self.query(normalized), self.window)  # (N, window^2, width)
        k, v = to_windows(self.key_value(normalized_enhanced), self.window).chunk(2, -1)
        bridge = self.mediator(torch.cat([normalized_enhanced, normalized], 1))
        m = to_windows(bridge, self.window // 2)  # (N, window^2 / 4, width)
        spread = dot_product_attention(q, m, dot_product_attention(m, k, v))  # (N, window^2, width)
        transformed: Tensor = self.project(from_windows(spread, self.window, (H, W)))
        return enhanced + transformed


class PriorFusion(nn.Module):
    """DAE followed by AFT at one level of the restorer."""

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.enhance = DegradationAwareEnhancement(channels)
        self.transform = AdaptiveFeatureTransformation(channels, window)

    def forward(self, features: Tensor, increments: Tensor) -> Tensor:
        """Map features (B, C, H, W) and S (B, 320, H, W) to (B, C, H, W)."""
        normalized = self.norm(features)
        return self.transform(normalized, self.enhance(features, normalized, increments))


class MixUpSkip(nn.Module):
    """Learned blend of decoder and encoder features (eq. 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(()))

    def forward(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        """Return sigmoid(theta) * decoded + (1 - sigmoid(theta)) * encoded."""
        share = self.theta.sigmoid()
        return share * decoded + (1.0 - share) * encoded
