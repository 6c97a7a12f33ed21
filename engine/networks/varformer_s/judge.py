"""The judge: what is wrong with an image, how strongly, and the tone grid that sets it right.

It sees a thumbnail, and a few crops at native size: blur and fine noise do not survive a thumbnail.
Its encoder is its own and is trained end to end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.mobilenet import FEATURES, Trunk
from varfix.engine.networks.varformer_s.degradation_head import (
    KINDS,
    STATISTICS,
    DegradationFilm,
    cell_statistics,
)
from varfix.engine.networks.varformer_s.tone_grid import GRID_CHANNELS

SIDE = 192
"""Side of the thumbnail that the trunk sees, in pixels."""

CELLS = SIDE // 16
GRID = 16
"""Cells along each side of the tone grid that is given out."""

CROP = 64
"""Side of a crop in pixels."""

PLACES = ((0.5, 0.5), (0.2, 0.2), (0.8, 0.2), (0.2, 0.8), (0.8, 0.8))
"""Where the crops' centers lie, across and down: the middle and the four quarters. The runtime cuts
them there too: `varfix.engine.restoration.prior_input`."""

GRID_SCALE = 4.0
"""The grid's last layer learns so much faster than the others."""

HIGH_PASS_SCALE = 8.0
"""What is left of a crop without its local mean is small."""


@dataclass(frozen=True)
class Seen:
    """What the judge knows before it decides on tone.

    Attributes:
        cells: (B, hidden, 12, 12).
        whole: (B, 3 * hidden + crops), the image as one.
        logits: (B, 6), in the order of `KINDS`, of each being there.
        strength: (B, 6) in [0, 1], how strong each is if it is there: see `JudgeStage`.
    """

    cells: Tensor
    whole: Tensor
    logits: Tensor
    strength: Tensor


class CropEncoder(nn.Module):
    """Texture of crops: sharpness, grain, blocks, streaks."""

    WIDTHS = (32, 48, 96)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 6
        for i, width in enumerate(self.WIDTHS):
            kernel = 3 if i else 5
            layers += [nn.Conv2d(channels, width, kernel, 2, kernel // 2), nn.ReLU(inplace=True)]
            channels = width
        self.layers = nn.Sequential(*layers)

    def forward(self, crops: Tensor) -> Tensor:
        """Map (B, N, 3, 64, 64) in [0, 1] to (B, 480), whatever the order of the crops.

        Noise is told from texture by the calmest place: texture leaves some places calm.
        """
        count = crops.shape[1]
        flat = crops.flatten(0, 1)
        smooth = functional.avg_pool2d(
            functional.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1
        )
        features = self.layers(torch.cat([flat - 0.5, HIGH_PASS_SCALE * (flat - smooth)], 1))
        each = features.mean((2, 3)).unflatten(0, (-1, count))
        spread = features.amax((2, 3)).unflatten(0, (-1, count))
        calm = features.amin((2, 3)).unflatten(0, (-1, count))
        parts = [each.mean(1), each.amax(1), spread.mean(1), calm.mean(1), calm.amin(1)]
        return torch.cat(parts, 1)


class RefinementBlock(nn.Module):
    """A residual block that starts near the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.second.weight.data.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, h, w) to the same shape."""
        inner = functional.silu(self.first(functional.silu(self.norm(x))))
        return x + cast(Tensor, self.second(inner))


class Judge(nn.Module):
    """Trunk, crops, cell statistics; then what is there, and the tone grid given what is there."""

    def __init__(self, hidden: int = 144, blocks: int = 2) -> None:
        super().__init__()
        self.trunk = Trunk()
        self.crops = CropEncoder()
        texture = 5 * CropEncoder.WIDTHS[-1]
        self.norm = nn.GroupNorm(1, FEATURES)
        self.known = nn.Conv2d(FEATURES, hidden, 1)
        self.measured = nn.Sequential(
            nn.Conv2d(STATISTICS, hidden, 1), nn.SiLU(), nn.Conv2d(hidden, hidden, 1)
        )
        self.textured = nn.Linear(texture, hidden)
        whole = 4 * hidden
        self.found = nn.Sequential(nn.Linear(whole, hidden), nn.SiLU())
        self.to_logits = nn.Linear(hidden, len(KINDS))
        self.to_strength = nn.Linear(hidden, len(KINDS))
        self.context = nn.Linear(whole, hidden)
        self.inform = DegradationFilm(hidden)
        self.refine = nn.Sequential(*(RefinementBlock(hidden) for _ in range(blocks)))
        self.to_grid = nn.Conv2d(hidden, GRID_CHANNELS, 1)
        nn.init.zeros_(self.to_grid.weight)
        nn.init.zeros_(cast(Tensor, self.to_grid.bias))
        # How probabilities follow from logits: fitted afterwards, on images that it has not seen.
        self.register_buffer("slope", torch.ones(len(KINDS)))
        self.register_buffer("offset", torch.zeros(len(KINDS)))
        self.slope: Tensor
        self.offset: Tensor
        self.register_buffer("enlarging", stretching(CELLS, GRID), persistent=False)
        self.enlarging: Tensor

    def look(self, thumbnail: Tensor, crops: Tensor) -> Seen:
        """Judge what is there.

        Args:
            thumbnail: (B, 3, 192, 192) in [0, 1], the whole image.
            crops: (B, N, 3, 64, 64) in [0, 1], pieces of it at native size.
        """
        known = self.known(self.norm(self.trunk(thumbnail)))
        statistics = cell_statistics(thumbnail, CELLS)
        cells = functional.silu(known + self.measured(4.0 * statistics - 1.0))
        texture = functional.silu(self.textured(self.crops(crops)))
        pooled = [cells.mean((2, 3)), cells.amax((2, 3)), cells.amin((2, 3)), texture]
        whole = torch.cat(pooled, 1)
        found = self.found(whole)
        return Seen(cells, whole, self.to_logits(found), self.to_strength(found).sigmoid())

    def logits(self, seen: Seen) -> Tensor:
        """Calibrated logits (B, 6) of each of `KINDS` being there."""
        return self.slope * seen.logits + self.offset

    def probability(self, seen: Seen) -> Tensor:
        """How likely each of `KINDS` is there, (B, 6) in [0, 1], calibrated."""
        return self.logits(seen).sigmoid()

    def grid(self, seen: Seen, belief: Tensor) -> Tensor:
        """Decide on tone.

        Args:
            seen: of `look`.
            belief: (B, 6) in [0, 1], what is taken to be wrong with the image.

        Returns:
            Grid (B, 96, 16, 16); zero is the identity.
        """
        context = self.context(seen.whole)[:, :, None, None]
        informed = self.inform(seen.cells + context, belief[:, :, None, None])
        grid = GRID_SCALE * self.to_grid(self.refine(informed))
        enlarged: Tensor = self.enlarging @ grid @ self.enlarging.T
        return enlarged


def stretching(cells: int, wanted: int) -> Tensor:
    """Bilinear resampling along one axis as a (wanted, cells) matrix, centers on centers."""
    position = ((torch.arange(wanted) + 0.5) * (cells / wanted) - 0.5).clamp(0.0, cells - 1.0)
    return (1.0 - (position[:, None] - torch.arange(cells)).abs()).clamp_min(0.0)


def averaging(pixels: int, wanted: int) -> Tensor:
    """Shrinking along one axis by areas as a (wanted, pixels) matrix."""
    edges = torch.arange(wanted + 1) * (pixels / wanted)
    places = torch.arange(pixels)
    upper = torch.minimum(edges[1:, None], places + 1.0)
    lower = torch.maximum(edges[:-1, None], places.float())
    return (upper - lower).clamp_min(0.0) * (wanted / pixels)


def own_crops(image: Tensor) -> Tensor:
    """Crops (B, 5, 3, 64, 64) of images (B, 3, H, W) at native size, H and W from 64 on."""
    height, width = image.shape[-2:]
    crops = []
    for across, down in PLACES:
        top, left = crop_start(down, height), crop_start(across, width)
        crops.append(image[..., top : top + CROP, left : left + CROP])
    return torch.stack(crops, 1)


def crop_start(place: float, length: int) -> int:
    """First pixel of a crop along one axis."""
    return min(max(round(place * length) - CROP // 2, 0), length - CROP)
