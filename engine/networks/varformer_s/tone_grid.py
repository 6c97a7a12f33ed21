"""Tone as a bilateral grid of affine color transforms, decided once for the whole image.

Haze, exposure and color cast are smooth in space and brightness; a coarse grid over both
describes their removal, starting at the identity. Source: engine/networks/README.md,
"Tone and detail"; the grid itself is Chen et al. 2007 and HDRNet (Gharbi et al. 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.networks.varformer_s.degradation_head import KINDS, LUMA

SHIFTING = ("rain", "haze", "lowlight", "snow")
"""What shifts tones: a veil, or darkness."""

BINS = 8
"""Cells along brightness."""

COEFFICIENTS = 12
"""A 3x4 affine transform: three rows of red, green, blue and constant."""

GRID_CHANNELS = BINS * COEFFICIENTS
LEAST_CHANGE = 0.02
"""A mean change of the thumbnail below this is no tone fault but a doubt, and is dropped."""


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
