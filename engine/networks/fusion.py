"""How the prior enters the restorer: DAE, AFT and mix-up skips (VarFormer, eqs. 3 to 6).

Nothing here looks at a whole tile at once. Scale weights are per position and attention stays
in windows, so that a pixel's result does not depend on where the tiles happen to be cut.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from varfix.engine.networks.quantizer import SCALES

SLOPE = 0.1


class DegradationAwareEnhancement(nn.Module):
    """Chooses scales (eq. 3), then regions (eq. 4), in which the prior speaks."""

    def __init__(self, channels: int, latent: int = 32, hidden: int = 32) -> None:
        super().__init__()
        self.latent = latent
        self.scale_weights = self._head(channels, hidden, len(SCALES))
        self.project = nn.Conv2d(latent, channels, 3, padding=1)
        self.region_weights = self._head(2 * channels, hidden, 2)
        with torch.no_grad():
            # Begin by trusting the picture: the softmax of (2, -2) gives the prior 2 %.
            self.region_weights.get_parameter("2.bias").copy_(torch.tensor([2.0, -2.0]))

    @staticmethod
    def _head(channels: int, hidden: int, maps: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.LeakyReLU(SLOPE), nn.Conv2d(hidden, maps, 1)
        )

    def forward(self, features: Tensor, increments: Tensor) -> Tensor:
        """Blend features with the weighted prior.

        Args:
            features: F, (B, C, H, W).
            increments: S at the same place, (B, 10 * latent, H, W), scale-major.

        Returns:
            F_g, (B, C, H, W).
        """
        weights = self.scale_weights(features).softmax(1)  # (B, 10, H, W)
        stacked = increments.unflatten(1, (len(SCALES), self.latent))
        prior = self.project((weights[:, :, None] * stacked).sum(1))
        regions = self.region_weights(torch.cat([features, prior], 1)).softmax(1)
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
        self.project = nn.Conv2d(width, channels, 1)
        nn.init.normal_(self.project.weight, std=1e-2)  # small, not zero: see RestorerNetwork
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, enhanced: Tensor) -> Tensor:
        """Map F and F_g, both (B, C, H, W) with H, W multiples of the window, to (B, C, H, W)."""
        H, W = features.shape[-2:]
        q = to_windows(self.query(features), self.window)  # (N, window^2, width)
        k, v = to_windows(self.key_value(enhanced), self.window).chunk(2, -1)
        bridge = self.mediator(torch.cat([enhanced, features], 1))
        m = to_windows(bridge, self.window // 2)  # (N, window^2 / 4, width)
        spread = attend(q, m, attend(m, k, v))  # (N, window^2, width)
        transformed: Tensor = self.project(from_windows(spread, self.window, (H, W)))
        return enhanced + transformed


class PriorFusion(nn.Module):
    """DAE followed by AFT at one level of the restorer."""

    def __init__(self, channels: int, window: int) -> None:
        super().__init__()
        self.enhance = DegradationAwareEnhancement(channels)
        self.transform = AdaptiveFeatureTransformation(channels, window)

    def forward(self, features: Tensor, increments: Tensor) -> Tensor:
        """Map features (B, C, H, W) and S (B, 320, H, W) to (B, C, H, W)."""
        return self.transform(features, self.enhance(features, increments))


class MixUpSkip(nn.Module):
    """Learned blend of decoder and encoder features (eq. 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(()))

    def forward(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        """sigmoid(theta) * decoded + (1 - sigmoid(theta)) * encoded."""
        share = self.theta.sigmoid()
        return share * decoded + (1.0 - share) * encoded


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V for (N, L, d), (N, M, d), (N, M, d)."""
    logits = query @ key.transpose(1, 2) * query.shape[-1] ** -0.5
    return logits.softmax(-1) @ value


def to_windows(x: Tensor, window: int) -> Tensor:
    """(B, C, H, W) to (B * windows, window * window, C)."""
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // window, window, W // window, window)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(-1, window * window, C)


def from_windows(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """(B * windows, window * window, C) back to (B, C, H, W); the inverse of `to_windows`."""
    H, W = size
    C = x.shape[-1]
    x = x.reshape(-1, H // window, W // window, window, window, C)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, C, H, W)
