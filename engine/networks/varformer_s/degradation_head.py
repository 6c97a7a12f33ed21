"""Recognizes which degradations a whole image shows.

In a small crop, a window frame and a streak of rain look the same. The restorer processes tiles, so
it receives the degradation scores of the whole image. With them it does not change the windows in
an
image without rain (measured: without them, clean images of houses were restored to 28 dB and less).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

KINDS = ("noise", "rain", "haze", "lowlight", "blur", "snow")
"""The recognized degradations: the tasks of `varfix.engine.models.card.TASKS` except `auto`."""

LUMA = (0.299, 0.587, 0.114)
STATISTICS = 33
"""Values per cell: minimum, mean, maximum and deviation of the colors, with the dark channel (13);
pixel differences (7); and the logarithms of the first 13, because a small difference matters more
in dark cells."""

LOG_OFFSET = 0.02
"""Added before the logarithm; smaller values count as black."""


def cell_statistics(thumbnail: Tensor, cells: int = 16) -> Tensor:
    """Return statistics that characterize haze, darkness, streaks and noise, for each cell.

    Networks are slow to learn such extremes and averages, and computing them is cheap.

    Args:
        thumbnail: (B, 3, H, W) in [0, 1], H and W multiples of 4 * cells.
        cells: Cells along each side.

    Returns:
        (B, 33, cells, cells), about in [0, 1].
    """
    colors = _colors(thumbnail, cells)
    return torch.cat([colors, _differences(thumbnail, cells), _logarithms(colors)], 1)


def _colors(thumbnail: Tensor, cells: int) -> Tensor:
    """Return minimum, mean, maximum and deviation of each color, and the dark channel (13).

    The values are those of means over 4 x 4 pixels, to reduce noise. The dark channel is the least
    value of all colors (He et al. 2009).
    """
    means = functional.avg_pool2d(thumbnail, 4)
    side = means.shape[-1] // cells
    mean = functional.avg_pool2d(means, side)
    least = -functional.max_pool2d(-means, side)
    greatest = functional.max_pool2d(means, side)
    spread = functional.avg_pool2d(means.square(), side) - mean.square()
    deviation = (spread.clamp_min(0.0) + 1e-6).sqrt()
    return torch.cat([least, mean, greatest, deviation, least.amin(1, keepdim=True)], 1)


def _logarithms(values: Tensor) -> Tensor:
    """Map values in [0, 1] to a logarithmic scale in [0, 1]."""
    return 1.0 - ((values + LOG_OFFSET) / (1.0 + LOG_OFFSET)).log() / math.log(
        LOG_OFFSET / (1.0 + LOG_OFFSET)
    )


def _differences(thumbnail: Tensor, cells: int) -> Tensor:
    """Return mean absolute differences of neighboring pixels (7).

    Luma in four directions, color, and curvature along two axes. Streaks have differences across
    but not along them; noise has them in all directions, and in color.
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
"""Learning rate of the head's layers, relative to the rest of the network, which needs a low
one."""


class DegradationHead(nn.Module):
    """Predicts which degradations an image shows.

    Each layer's input is multiplied by `LR_MULTIPLIER`, and its initial weights are divided by it.
    Adam's steps do not depend on the size of gradients, so this raises the learning rate. The
    attribute `seen` (layers of the statistics) is part of the keys of checkpoints.
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
        """Return the logits (B, 6) of each degradation, in the order of `KINDS`.

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
    """Scales and shifts features by the degradation scores (FiLM); initially the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.to_change = nn.Conv2d(len(KINDS), 2 * channels, 1)
        nn.init.zeros_(self.to_change.weight)
        nn.init.zeros_(self.to_change.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, scores: Tensor) -> Tensor:
        """Modulate (B, C, h, w) by scores (B, 6, h, w)."""
        scale, shift = self.to_change(scores).chunk(2, 1)
        return x + x * scale + shift
