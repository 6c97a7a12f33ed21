"""Balance of the kinds of damage in a loss: one learned scale for each."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TYPICAL = 0.03
"""A loss that weighs one; also where the scales begin."""

FLOOR = 0.006
"""Added to every scale: images that are to come back untouched have hardly any error, and would
silence all others by its inverse."""


class Balance(nn.Module):
    """Weighs losses by the inverse of their kind's scale (Kendall et al. 2018, Laplace's form).

    `loss / scale + log(scale)` is least where the scale is the kind's mean loss: then every kind
    counts by the logarithm of its error, as decibels do, whatever its size.
    """

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((kinds,), math.log(TYPICAL)))

    def forward(self, losses: Tensor, kinds: Tensor) -> Tensor:
        """The balanced loss, a scalar, of losses (N,) whose kinds are (N,) int64."""
        scale = (self.log_scale.exp() + FLOOR)[kinds]
        return TYPICAL * (losses / scale + scale.log()).mean()
