"""What is wrong with an image, judged once from the whole of it.

A window frame and a streak of rain look the same from near. The restorer, which sees a tile, is
told which degradations the image as a whole shows, so that it leaves the windows of a dry day
alone (measured: without it, clean images of houses came back at 28 dB and worse).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

KINDS = ("noise", "rain", "haze", "lowlight", "blur", "snow")
"""The degradations that are told apart; the tasks of `engine.models.TASKS` but `auto`."""

LUMA = (0.299, 0.587, 0.114)
STATISTICS = 33
"""Of a cell: extremes, mean and deviation of the colors (13), differences of pixels (7), and the
first 13 again as logarithms: in the dark a small difference of light is a great one."""

FAINT = 0.02
"""Added to what a logarithm is taken of: less than this is black."""


def cell_statistics(thumbnail: Tensor, cells: int = 16) -> Tensor:
    """What haze, darkness, streaks and noise are known by, for each cell of an image.

    Networks find such extremes and averages late, and they cost nothing here.

    Args:
        thumbnail: (B, 3, H, W) in [0, 1], H and W multiples of 4 * cells.
        cells: cells along each side.

    Returns:
        (B, 33, cells, cells), about in [0, 1].
    """
    colors = _colors(thumbnail, cells)
    return torch.cat([colors, _differences(thumbnail, cells), _logarithms(colors)], 1)


def _colors(thumbnail: Tensor, cells: int) -> Tensor:
    """Least, mean, greatest value and deviation of each color, and the least of all (13).

    Of means over 4x4 pixels, so that noise matters little. The least value of all colors is the
    dark channel of He et al. 2009.
    """
    calm = functional.avg_pool2d(thumbnail, 4)
    side = calm.shape[-1] // cells
    mean = functional.avg_pool2d(calm, side)
    least = -functional.max_pool2d(-calm, side)
    greatest = functional.max_pool2d(calm, side)
    spread = functional.avg_pool2d(calm.square(), side) - mean.square()
    deviation = (spread.clamp_min(0.0) + 1e-6).sqrt()
    return torch.cat([least, mean, greatest, deviation, least.amin(1, keepdim=True)], 1)


def _logarithms(values: Tensor) -> Tensor:
    """Values in [0, 1] on a logarithmic scale, in [0, 1] again."""
    return 1.0 - ((values + FAINT) / (1.0 + FAINT)).log() / math.log(FAINT / (1.0 + FAINT))


def _differences(thumbnail: Tensor, cells: int) -> Tensor:
    """Mean size of neighbors' differences: luma in four directions, color, curvature twice (7).

    Streaks differ across, not along; noise differs everywhere, and in color too.
    """
    luma = (thumbnail * thumbnail.new_tensor(LUMA).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    tint = thumbnail[:, :1] - thumbnail[:, 2:]
    center = luma[:, :, 1:-1, 1:-1]
    right, below = luma[:, :, 1:-1, 2:], luma[:, :, 2:, 1:-1]
    corners = luma[:, :, 2:, 2:], luma[:, :, 2:, :-2]
    steps = [other - center for other in (right, below, *corners)]
    steps.append(tint[:, :, 1:-1, 2:] - tint[:, :, 1:-1, 1:-1])
    steps.append(right + luma[:, :, 1:-1, :-2] - 2.0 * center)
    steps.append(below + luma[:, :, :-2, 1:-1] - 2.0 * center)
    sizes = functional.pad(torch.cat(steps, 1).abs(), (1, 1, 1, 1), mode="replicate")
    return 10.0 * functional.avg_pool2d(sizes, thumbnail.shape[-1] // cells)


LR_MULTIPLIER = 6.0
"""The head's layers learn so much faster than the networks around it, which need a low rate."""


class DegradationHead(nn.Module):
    """Tells which degradations an image shows.

    Every layer's input is enlarged, and its weights begin as much smaller: for Adam, whose steps
    have the size of the rate whatever the gradient, this is a higher learning rate.
    """

    def __init__(self, channels: int, hidden: int = 96) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.local = nn.Conv2d(channels, hidden, 1)
        self.seen = nn.Sequential(
            nn.Conv2d(STATISTICS, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, hidden, 1)
        )
        self.whole = nn.Sequential(
            nn.Linear(3 * hidden, hidden), nn.SiLU(), nn.Linear(hidden, len(KINDS))
        )
        for layer in (self.local, *self.seen, *self.whole):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.data.div_(LR_MULTIPLIER)

    def forward(self, features: Tensor, statistics: Tensor) -> Tensor:
        """Logits (B, 6), in the order of `KINDS`, each of its degradation being there.

        Args:
            features: (B, channels, 16, 16) of the prior.
            statistics: (B, 33, 16, 16) of `cell_statistics`.
        """
        known = self.local(LR_MULTIPLIER * self.norm(features))
        local = functional.silu(
            known + self.seen[2](LR_MULTIPLIER * self.seen[:2](LR_MULTIPLIER * statistics))
        )
        whole = torch.cat([local.mean((2, 3)), local.amax((2, 3)), local.amin((2, 3))], 1)
        logits: Tensor = self.whole[2](LR_MULTIPLIER * self.whole[:2](LR_MULTIPLIER * whole))
        return logits


class DegradationFilm(nn.Module):
    """Scales and shifts features by what is wrong with an image; the identity at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_change = nn.Conv2d(len(KINDS), 2 * channels, 1)
        nn.init.zeros_(self.to_change.weight)
        nn.init.zeros_(self.to_change.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, evidence: Tensor) -> Tensor:
        """Change (B, C, h, w) by the evidence (B, 6, h, w)."""
        scale, shift = self.to_change(evidence).chunk(2, 1)
        return x + x * scale + shift
