"""How the prior enters the restorer: DAE, AFT and mix-up skips (VarFormer, eqs. 3 to 6).

Nothing here looks at a whole tile at once. Scale weights are per position, attention stays in
windows and normalization is over channels only, so that a pixel's result does not depend on where
the tiles happen to be cut.

Every decision (weights, queries, the mediator) is made from normalized features. Without that
the features of the deep levels grew, unseen, until a softmax over regions shut them off: half of
the network was dead, and one day its thousands came through (measured).
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
    """Chooses scales (eq. 3), then regions (eq. 4), in which the prior speaks."""

    def __init__(self, channels: int, latent: int = 32, hidden: int = 32) -> None:
        super().__init__()
        self.latent = latent
        self.scale_weights = self._head(channels, hidden, len(SCALES))
        self.project = nn.Conv2d(latent, channels, 3, padding=1)
        self.region_weights = self._head(2 * channels, hidden, 2)
        with torch.no_grad():
            # Begin by trusting the image: the softmax of (2, -2) gives the prior 2 %.
            self.region_weights.get_parameter("2.bias").copy_(torch.tensor([2.0, -2.0]))

    @staticmethod
    def _head(channels: int, hidden: int, maps: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LeakyReLU(SLOPE), nn.Conv2d(hidden, maps, 1)
        )

    def forward(self, features: Tensor, calm: Tensor, increments: Tensor) -> Tensor:
        """Blend features with the weighted prior.

        Args:
            features: F, (B, C, H, W).
            calm: F, normalized.
            increments: S at the same place, (B, 10 * latent, H, W), scale-major.

        Returns:
            F_g, (B, C, H, W).
        """
        weights = self.scale_weights(calm).softmax(1)  # (B, 10, H, W)
        stacked = increments.unflatten(1, (len(SCALES), self.latent))
        prior = self.project((weights[:, :, None] * stacked).sum(1))
        regions = self.region_weights(torch.cat([calm, prior], 1)).softmax(1)
        return features * regions[:, :1] + prior * regions[:, 1:]


class AdaptiveFeatureTransformation(nn.Module):
    """Two-step attention through a small mediator (eq. 5), inside windows.

    The residual is F_g as in the released code (the paper adds F): so the enhancement reaches the
    next layer before the attention has learned anything.
    """

    def __init__(self, channels: int, window: int, width: int = 64) -> None:
        super().__init__()
        self.window = window
        self.query = nn.Conv2d(channels, width, 1)
        self.key_value = nn.Conv2d(channels, 2 * width, 1)
        self.mediator = nn.Conv2d(2 * channels, width, 2, stride=2)
        self.norm = ChannelNorm(channels)
        self.project = nn.Conv2d(width, channels, 1)
        nn.init.normal_(self.project.weight, std=1e-2)  # small, not zero: see RestorerNetwork
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, calm: Tensor, enhanced: Tensor) -> Tensor:
        """Map normalized F and F_g, both (B, C, H, W), to (B, C, H, W).

        H and W are multiples of the window.
        """
        H, W = calm.shape[-2:]
        even = self.norm(enhanced)
        q = to_windows(self.query(calm), self.window)  # (N, window^2, width)
        k, v = to_windows(self.key_value(even), self.window).chunk(2, -1)
        bridge = self.mediator(torch.cat([even, calm], 1))
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
        calm = self.norm(features)
        return self.transform(calm, self.enhance(features, calm, increments))


class MixUpSkip(nn.Module):
    """Learned blend of decoder and encoder features (eq. 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(()))

    def forward(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        """sigmoid(theta) * decoded + (1 - sigmoid(theta)) * encoded."""
        share = self.theta.sigmoid()
        return share * decoded + (1.0 - share) * encoded
