"""Tone as a bilateral grid of affine color transforms, computed once for the whole image.

Haze, exposure and color cast vary smoothly over the image and with brightness. A coarse grid over
both represents their correction; its initial value is the identity. Sources:
engine/networks/README.md, "Tone and detail"; Chen et al. 2007 and HDRNet (Gharbi et al. 2017) for
the grid.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.conv_blocks import ResBlock
from varfix.engine.networks.varformer_s.degradation_head import (
    KINDS,
    LUMA,
    STATISTICS,
    DegradationFilm,
)

TONE_KINDS = ("rain", "haze", "lowlight", "snow")
"""Degradations that shift tones."""

BINS = 8
"""Cells along brightness."""

COEFFICIENTS = 12
"""A 3x4 affine transform: three rows of red, green, blue and constant."""

GRID_CHANNELS = BINS * COEFFICIENTS
REFINEMENTS = 2
"""Residual blocks of the head."""

MIN_CHANGE = 0.02
"""Grids that change the thumbnail less than this on average are noise, and are suppressed."""


class ToneHead(nn.Module):
    """Predicts the tone grid from features of the prior; initially zero, the identity.

    An input gives the degradations of the image. Without it, training with a loss on tones makes
    the head apply half of a correction to every image that may need it (measured: dark images
    remained dark).
    """

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        # Encoder features, tokens and latents differ in scale by a factor of 100.
        self.norm = nn.GroupNorm(1, channels)
        self.local = nn.Sequential(nn.Conv2d(channels, hidden, 3, padding=1), nn.SiLU())
        self.seen = nn.Sequential(
            nn.Conv2d(STATISTICS, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, hidden, 1)
        )
        self.overall = nn.Sequential(nn.Linear(3 * hidden, hidden), nn.SiLU())
        self.inform = DegradationFilm(hidden)
        # The correction of a cell also depends on its surroundings.
        self.refine = nn.Sequential(*(ResBlock(hidden, hidden, 16) for _ in range(REFINEMENTS)))
        for block in self.refine:
            cast(ResBlock, block).conv2.weight.data.mul_(0.1)
        self.to_grid = nn.Conv2d(hidden, GRID_CHANNELS, 1)
        nn.init.zeros_(self.to_grid.weight)
        nn.init.zeros_(self.to_grid.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, statistics: Tensor, confidence: Tensor) -> Tensor:
        """Predict the tone grid.

        Args:
            features: (B, channels, 16, 16) of the prior.
            statistics: (B, 33, 16, 16) of the thumbnail's cells.
            confidence: (B, 6) in [0, 1], of each degradation.

        Returns:
            (B, 96, 16, 16).
        """
        local = self.local(self.norm(features)) + self.seen(statistics)
        whole = torch.cat([local.mean((2, 3)), local.amax((2, 3)), local.amin((2, 3))], 1)
        known = local + self.overall(whole)[:, :, None, None]
        return self.to_grid(self.refine(self.inform(known, confidence[:, :, None, None])))


def guide(colors: Tensor) -> Tensor:
    """Return the position on the grid's brightness axis, in [0, BINS - 1].

    The square root gives more cells to dark tones, which need the largest gains.

    Args:
        colors: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 1, H, W).
    """
    weights = colors.new_tensor(LUMA).reshape(1, 3, 1, 1)
    luma = (colors * weights).sum(1, keepdim=True).clamp(1e-4, 1.0)
    return luma.sqrt() * (BINS - 1)


def slice_grid(grid: Tensor, position: Tensor) -> Tensor:
    """Return affine coefficients (B, 12, H, W) for each pixel, interpolated linearly between cells.

    Args:
        grid: (B, 96, H, W), already enlarged to the pixels.
        position: (B, 1, H, W), from `guide`.
    """
    cells = grid.unflatten(1, (BINS, COEFFICIENTS))
    bins = torch.arange(BINS, device=grid.device, dtype=grid.dtype).reshape(1, BINS, 1, 1)
    weights = (1.0 - (position - bins).abs()).clamp_min(0.0)  # (B, BINS, H, W)
    return (cells * weights[:, :, None]).sum(1)


def apply_tone(folded: Tensor, grid: Tensor) -> Tensor:
    """Apply a grid to an image folded by `pixel_unshuffle(image, 2)`.

    Each block of 2 x 2 pixels has one transform, which takes a quarter of the computation.

    Args:
        folded: (B, 12, H, W), the image in [0, 1].
        grid: (B, 96, h, w); H and W are multiples of h and w.

    Returns:
        (B, 12, H, W), not clamped.
    """
    pixels = folded.unflatten(1, (3, 4))  # (B, 3, 4, H, W)
    enlarged = functional.interpolate(
        grid, size=folded.shape[-2:], mode="bilinear", align_corners=False
    )
    affine = slice_grid(enlarged, guide(pixels.mean(2))).unflatten(1, (3, 4))  # rows x (rgb, 1)
    moved = [
        (affine[:, row, :3, None] * pixels).sum(1) + affine[:, row, 3, None] for row in range(3)
    ]
    return (pixels + torch.stack(moved, 1)).flatten(1, 2)


def tone_certainty(grid: Tensor, thumbnail: Tensor, belief: Tensor) -> Tensor:
    """How far a grid counts, (B,) in [0, 1]: not if it hardly changes the image, or for nothing.

    A trained head still predicts small corrections for clean images. A grid is zeroed if it changes
    the thumbnail by less than `MIN_CHANGE`, and kept from twice that on. It is also multiplied by
    the highest confidence in a degradation that shifts tones.

    Args:
        grid: (B, 96, 16, 16), from the head.
        thumbnail: (B, 3, H, W) in [0, 1], of even size.
        belief: (B, 6) in [0, 1], in the order of `degradation_head.KINDS`.
    """
    folded = functional.pixel_unshuffle(thumbnail, 2)
    change = (apply_tone(folded, grid) - folded).abs().mean((1, 2, 3))
    shifting = [KINDS.index(kind) for kind in TONE_KINDS]
    sure = belief[:, shifting].amax(1)
    return sure * ((change - MIN_CHANGE) / MIN_CHANGE).clamp(0.0, 1.0)
