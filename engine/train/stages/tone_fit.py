"""Fits a tone grid to a thumbnail and its target.

If a restorer is only trained with imprecise grids, it learns to correct them, and degrades the
result of precise ones. The fit has a closed form: ridge regression in a few overlapping regions,
whose coefficients are interpolated to the cells of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.networks.varformer_s.tone_grid import BINS, COEFFICIENTS, guide

CELLS = 16
REGIONS = 4
"""Regions along each side; neighbors overlap."""

RIDGE = 2e-3
"""Weight of the identity, per pixel of a region."""


def fit_grid(thumbnail: Tensor, target: Tensor) -> Tensor:
    """Return grids (B, 96, 16, 16) that map thumbnails to targets, both (B, 3, 256, 256).

    Values are in [0, 1]; a grid of zero is the identity.
    """
    colors, wanted = (functional.avg_pool2d(each, 4) for each in (thumbnail, target))
    B, _, H, W = colors.shape
    bins = torch.arange(BINS, device=colors.device, dtype=colors.dtype).reshape(1, BINS, 1, 1)
    shares = (1.0 - (guide(colors) - bins).abs()).clamp_min(0.0)  # (B, BINS, H, W)
    terms = torch.cat([colors, torch.ones_like(colors[:, :1])], 1)
    features = (shares[:, :, None] * terms[:, None]).reshape(B, BINS * 4, H * W)
    change = (wanted - colors).reshape(B, 3, H * W)
    weights = _regions(H, W, colors)
    weighted = features[:, None] * weights[None, :, None]  # (B, regions, BINS * 4, H * W)
    squares = weighted @ features[:, None].transpose(-1, -2)
    products = weighted @ change[:, None].transpose(-1, -2)  # (B, regions, BINS * 4, 3)
    ridge = RIDGE * weights.sum(1)[:, None, None] * torch.eye(BINS * 4, device=colors.device)
    found = torch.linalg.solve(squares + ridge, products)
    # Bins x (rgb, 1) x rows to the grid's bins x rows x (rgb, 1).
    found = found.unflatten(2, (BINS, 4)).transpose(3, 4).reshape(B, REGIONS, REGIONS, -1)
    grid = found.permute(0, 3, 1, 2).reshape(B, BINS * COEFFICIENTS, REGIONS, REGIONS)
    return functional.interpolate(grid, size=(CELLS, CELLS), mode="bilinear")


def _regions(height: int, width: int, like: Tensor) -> Tensor:
    """Return the weights (REGIONS^2, H * W) of pixels in each region, a Gaussian."""
    axes = []
    for length in (height, width):
        centers = (torch.arange(REGIONS) + 0.5) * (length / REGIONS)
        away = (torch.arange(length) + 0.5 - centers[:, None]) / (length / REGIONS)
        axes.append(torch.exp(-0.5 * (away / 0.6).square()))
    rows, columns = axes
    return (rows[:, None, :, None] * columns[None, :, None]).flatten(2).flatten(0, 1).to(like)
