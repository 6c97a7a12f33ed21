"""Tone as a bilateral grid of affine color transforms, decided once for the whole image.

Haze, exposure and color cast are smooth in space and brightness; a coarse grid over both
describes their removal, starting at the identity. Source: engine/networks/README.md,
"Tone and detail"; the grid itself is Chen et al. 2007 and HDRNet (Gharbi et al. 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
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

LIKELY: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "noise": (0.3, 0.6),
        "rain": (0.4, 0.7),
        "haze": (0.85, 0.95),
        "lowlight": (0.9, 0.97),
        "blur": (0.3, 0.6),
        "snow": (0.2, 0.5),
    }
)
"""Below the first probability a degradation is taken for absent, from the second on for there.
For haze and darkness: the lowest at which no other kind of training photograph loses by it (least
mean error would be 0.7 to 0.8 for both, but blurred and noisy images lost 0.6 to 0.9 dB then). A
night scene must not be turned into day. Good images of lines and bars pass for a little rain."""

ASKED = (0.7, 0.8)
"""The same for what the user asks for: what errs least on training photographs. A good image
among dark ones, all restored with `lowlight`, must not be brightened."""

SHIFTING = ("rain", "haze", "lowlight", "snow")
"""What shifts tones: a veil, or darkness."""

BINS = 8
"""Cells along brightness."""

COEFFICIENTS = 12
"""A 3x4 affine transform: three rows of red, green, blue and constant."""

GRID_CHANNELS = BINS * COEFFICIENTS
REFINEMENTS = 2
"""Residual blocks of the head between gathering what is seen and deciding."""

LEAST_CHANGE = 0.02
"""A mean change of the thumbnail below this is no tone fault but a doubt, and is dropped."""


class ToneHead(nn.Module):
    """Decodes prior features to the grid; zero at first, which is the identity.

    It is told what is wrong with the image. If it had to guess, it would do half of what haze
    needs to every image that might be hazy: what a loss on tones pays best for (measured: dark
    images stayed dark).
    """

    def __init__(self, channels: int, hidden: int = 128) -> None:
        super().__init__()
        # Encoder features, tokens and latents differ a hundredfold in size.
        self.norm = nn.GroupNorm(1, channels)
        self.local = nn.Sequential(nn.Conv2d(channels, hidden, 3, padding=1), nn.SiLU())
        self.seen = nn.Sequential(
            nn.Conv2d(STATISTICS, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, hidden, 1)
        )
        self.overall = nn.Sequential(nn.Linear(3 * hidden, hidden), nn.SiLU())
        self.inform = DegradationFilm(hidden)
        # A dark or pale cell is judged by its surroundings too.
        self.refine = nn.Sequential(*(ResBlock(hidden, hidden, 16) for _ in range(REFINEMENTS)))
        for block in self.refine:
            cast(ResBlock, block).conv2.weight.data.mul_(0.1)
        self.to_grid = nn.Conv2d(hidden, GRID_CHANNELS, 1)
        nn.init.zeros_(self.to_grid.weight)
        nn.init.zeros_(self.to_grid.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, statistics: Tensor, belief: Tensor) -> Tensor:
        """Decide on tone.

        Args:
            features: (B, channels, 16, 16) of the prior.
            statistics: (B, 33, 16, 16) of the thumbnail's cells.
            belief: (B, 6) in [0, 1], what is wrong with the image.

        Returns:
            Grid (B, 96, 16, 16).
        """
        local = self.local(self.norm(features)) + self.seen(statistics)
        whole = torch.cat([local.mean((2, 3)), local.amax((2, 3)), local.amin((2, 3))], 1)
        known = local + self.overall(whole)[:, :, None, None]
        return self.to_grid(self.refine(self.inform(known, belief[:, :, None, None])))


def confident(evidence: Tensor) -> Tensor:
    """What is taken to be wrong, (B, 6) in [0, 1], of how likely each of `KINDS` is, (B, 6)."""
    low, high = evidence.new_tensor([LIKELY[kind] for kind in KINDS]).T
    return ((evidence - low) / (high - low)).clamp(0.0, 1.0)


def confident_in_task(evidence: Tensor, task: Tensor) -> Tensor:
    """What is taken to be wrong because the user says so and little speaks against it.

    Args:
        evidence: (B, 6) in [0, 1], how likely each of `KINDS` is.
        task: (B,) int64, 0 for `auto`, else one more than the number of the kind.

    Returns:
        (B, 6) in [0, 1], 0 for all but the kind that was asked for.
    """
    low, high = ASKED
    kinds = torch.arange(1, len(KINDS) + 1, device=task.device)
    asked = (task[:, None] == kinds).to(evidence.dtype)
    return asked * ((evidence - low) / (high - low)).clamp(0.0, 1.0)


def guide(colors: Tensor) -> Tensor:
    """Position along the grid's brightness axis, in [0, BINS - 1].

    Args:
        colors: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 1, H, W). The square root gives dark tones, which need the largest gains, more cells.
    """
    weights = colors.new_tensor(LUMA).reshape(1, 3, 1, 1)
    luma = (colors * weights).sum(1, keepdim=True).clamp(1e-4, 1.0)
    return luma.sqrt() * (BINS - 1)


def slice_grid(grid: Tensor, position: Tensor) -> Tensor:
    """Affine coefficients (B, 12, H, W) at each pixel, by linear interpolation of the cells.

    Args:
        grid: (B, 96, H, W), already enlarged to the pixels.
        position: (B, 1, H, W) from `guide`.
    """
    cells = grid.unflatten(1, (BINS, COEFFICIENTS))
    bins = torch.arange(BINS, device=grid.device, dtype=grid.dtype).reshape(1, BINS, 1, 1)
    weights = (1.0 - (position - bins).abs()).clamp_min(0.0)  # (B, BINS, H, W)
    return (cells * weights[:, :, None]).sum(1)


def apply_tone(folded: Tensor, grid: Tensor) -> Tensor:
    """Apply a grid to an image folded by `pixel_unshuffle(picture, 2)`.

    The transform is decided per 2x2 block: that is a quarter of the work, and the restorer that
    follows sees single pixels.

    Args:
        folded: (B, 12, H, W), the image in [0, 1].
        grid: (B, 96, h, w) with (H, W) a multiple of it.

    Returns:
        (B, 12, H, W), unbounded.
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


def suppress_uncertain(grid: Tensor, thumbnail: Tensor, belief: Tensor) -> Tensor:
    """Fade out grids that would hardly change the image, or that nothing speaks for.

    A head that has learned what haze and darkness are still sees a little of them in every good
    image. The grid counts in full from twice `LEAST_CHANGE` on, and not at all below it; likewise
    by how likely the image shows any of what shifts tones.

    Args:
        grid: (B, 96, 16, 16) from the head.
        thumbnail: (B, 3, H, W) in [0, 1], of even size.
        belief: (B, 6) in [0, 1], in the order of `evidence.KINDS`.
    """
    folded = functional.pixel_unshuffle(thumbnail, 2)
    change = (apply_tone(folded, grid) - folded).abs().mean((1, 2, 3), keepdim=True)
    shifting = [KINDS.index(kind) for kind in SHIFTING]
    sure = belief[:, shifting].amax(1).reshape(-1, 1, 1, 1)
    return grid * sure * ((change - LEAST_CHANGE) / LEAST_CHANGE).clamp(0.0, 1.0)
