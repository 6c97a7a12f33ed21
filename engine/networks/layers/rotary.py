"""Rotary position embedding of the token maps, in real numbers (engine/networks/README.md).

Coarse maps are stretched to the finest one's grid, so that a token's angle tells where in the
image it lies, whatever its scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BASE = 10000.0


@dataclass(frozen=True)
class Turns:
    """Rotations of L tokens: cosines and sines (L, d / 2) of one angle per pair of channels."""

    cosines: Tensor
    sines: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Turn each pair of neighboring channels of (N, heads, L, d) by its token's angle."""
        first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = (
            first * self.cosines - second * self.sines,
            first * self.sines + second * self.cosines,
        )
        return torch.stack(turned, -1).flatten(-2)


def angles(scales: tuple[int, ...], channels: int) -> Tensor:
    """Angles (L, channels / 2) of all tokens: the first half turns by row, the second by column.

    Args:
        scales: sides of the token maps, coarse to fine.
        channels: of a head, a multiple of 4.
    """
    frequencies = BASE ** (-4.0 * counted(channels // 4) / channels)
    maps = [counted(p) / p * scales[-1] for p in scales]
    rows = torch.cat([axis.repeat_interleave(len(axis)) for axis in maps])
    columns = torch.cat([axis.repeat(len(axis)) for axis in maps])
    return torch.cat([torch.outer(rows, frequencies), torch.outer(columns, frequencies)], 1)


def counted(count: int) -> Tensor:
    """0, 1, 2, ...; exact, and on the CPU even where parameters are not (as `area_matrix`)."""
    return torch.arange(count, dtype=torch.float64, device="cpu")
