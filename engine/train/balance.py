"""Balances the loss over kinds of degradation, with one learned scale for each."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TYPICAL = 0.03
"""Initial scale; a loss with this scale has weight 1."""

FLOOR = 0.006
"""Added to every scale. Clean images have almost no error, so that their weight, the inverse of the
error, would exceed all others."""


class Balance(nn.Module):
    """Weights losses by the inverse of a learned scale (Kendall et al. 2018, for Laplace noise).

    `loss / scale + log(scale)` has its minimum where the scale is the mean loss of the kind. So
    each kind contributes the logarithm of its error, as decibels do.
    """

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((kinds,), math.log(TYPICAL)))

    def forward(self, losses: Tensor, kinds: Tensor) -> Tensor:
        """Return the balanced loss, a scalar, of losses (N,) with kinds (N,) int64."""
        scale = (self.log_scale.exp() + FLOOR)[kinds]
        return TYPICAL * (losses / scale + scale.log()).mean()
