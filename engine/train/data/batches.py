"""Batches and pools of training images: cut, degraded, shrunk, and taken apart into patches.

A pool is degraded at once and dealt out to many steps: in small steps, each of patches of several
images, a network learns several times as fast as in large ones of whole images, and the prior of
an image is computed once for all of its patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.tone_grid import SHIFTING
from varfix.engine.train.data.pairs import OWN
from varfix.engine.train.data.source import Source
from varfix.engine.train.degradations.mix import DEGRADATIONS, Degraded
from varfix.engine.train.degradations.random_draws import chance, integer, uniform
from varfix.engine.train.recipes.recipe import StageRecipe

STRIDE = 16
THUMBNAIL = 256

GROUPS = (*DEGRADATIONS, OWN)
"""Kinds that losses are reported and balanced by."""

WIDE = 2
"""Wide patches have this times the side of others."""


@dataclass(frozen=True)
class Batch:
    """What a step sees, or a pool that several steps are dealt from.

    Attributes:
        thumbnail: (P, 3, 256, 256), whole degraded images.
        clean: (P, 3, 256, 256), the same images clean.
        task: (P,) int64.
        present: (P, 6) float32, 1 where a kind of `evidence.KINDS` is in the image, 0 where it is
            not, -1 where nobody knows.
        told: (P, 6) float32, evidence to tell the restorer; -1 for what the prior finds.
        fitted: (P,) float32, how far the tone grid is moved from what the prior decides to the one
            that fits the target.
        group: (P,) int64, places in `GROUPS`.
        patches: (N, 3, p, p) cut from the degraded images, uint8, in random order.
        targets: the same patches, clean.
        samplers: (2, N, p / 16, 16), rows and columns that sample the prior on each patch.
        owner: (N,) int64, the image of each patch.
        maps: (P, 422, 16, 16), the prior of each image; empty before it is computed.
    """

    thumbnail: Tensor
    clean: Tensor
    task: Tensor
    present: Tensor
    told: Tensor
    fitted: Tensor
    group: Tensor
    patches: Tensor
    targets: Tensor
    samplers: Tensor
    owner: Tensor
    maps: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})

    @property
    def kinds(self) -> Tensor:
        """(N,) int64, the place in `GROUPS` of each patch."""
        return self.group[self.owner]

    def dealt(self, part: int, parts: int) -> Batch:
        """One of `parts` equal parts of the patches, as float32 in [0, 1]; all of the images."""
        count = len(self.patches) // parts
        mine = slice(part * count, (part + 1) * count)
        return replace(
            self,
            patches=self.patches[mine].float() / 255.0,
            targets=self.targets[mine].float() / 255.0,
            samplers=self.samplers[:, mine],
            owner=self.owner[mine],
        )


class Batches(torch.utils.data.Dataset[Batch]):
    """Batch or pool number `i` of a stage, always the same for the same recipe."""

    def __init__(self, source: Source, stage: StageRecipe, seed: int, device: torch.device) -> None:
        self.source, self.stage, self.seed, self.device = source, stage, seed, device

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> Batch:
        """Cut, degrade, shrink."""
        rng = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + step)
        side = self.stage.image_sizes[integer(0, len(self.stage.image_sizes), rng)]
        degraded = self.source.draw(self.stage.batch_size, side, rng)
        patches, targets, samplers, owner = cut_patches(degraded, self.stage, rng)
        present = present_kinds(degraded.names).to(self.device)
        return Batch(
            thumbnail=shrink(degraded.picture),
            clean=shrink(degraded.target),
            task=degraded.task,
            present=present,
            told=truth_told(present, self.stage.informed, rng),
            fitted=fitted_shares(present, self.stage.fitted, rng),
            group=torch.tensor([GROUPS.index(name) for name in degraded.names], device=self.device),
            patches=patches,
            targets=targets,
            samplers=samplers,
            owner=owner,
            maps=patches.new_empty(0, dtype=torch.float32),
        )


def truth_told(present: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """The truth (P, 6) with some doubt for a share of the images, -1 for the others."""
    doubt = uniform(tuple(present.shape), 0.0, 1.0, rng) ** 3 * 0.5
    sure = (present - doubt).abs()
    told = (uniform((len(present), 1), 0.0, 1.0, rng) < share) & (present >= 0.0)
    return torch.where(told, sure, -torch.ones_like(sure))


def present_kinds(names: Sequence[str]) -> Tensor:
    """Which of `evidence.KINDS` each degradation brings, (P, 6); -1 for images of a user's own.

    Args:
        names: keys of `DEGRADATIONS`, or `OWN`.
    """
    return torch.tensor([_present(name) for name in names])


def _present(name: str) -> list[float]:
    if name == OWN:
        return [-1.0] * len(KINDS)
    found = {DEGRADATIONS[part][1] if part in DEGRADATIONS else part for part in name.split("+")}
    return [float(kind in found) for kind in KINDS]


def shrink(pictures: Tensor) -> Tensor:
    """Thumbnails (B, 3, 256, 256) by area averaging, as at inference."""
    if pictures.shape[-1] == THUMBNAIL:
        return pictures
    return functional.interpolate(pictures, size=(THUMBNAIL, THUMBNAIL), mode="area")


def fitted_shares(present: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """How far the grid (P,) is moved to the fitted one: for a share of those with shifted tones."""
    shifting = [KINDS.index(kind) for kind in SHIFTING]
    shifted = present[:, shifting].amax(1) > 0.5
    chosen = shifted & (uniform((len(present),), 0.0, 1.0, rng) < share)
    return chosen * uniform((len(present),), 0.6, 1.0, rng)


def cut_patches(
    degraded: Degraded, stage: StageRecipe, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random patches of each image, their targets, the samplers of their prior, their images.

    By gathers and not by slices: on a GPU every slice of every patch costs a kernel.
    """
    device, side = degraded.picture.device, degraded.picture.shape[-1]
    p, each = stage.patch, stage.patches
    if stage.wide and chance(stage.wide, rng):
        p, each = WIDE * p, each // WIDE**2
    count = len(degraded.picture) * each
    corners = torch.randint(0, side - p + 1, (count, 2), generator=rng, device=rng.device)
    owner = torch.arange(len(degraded.picture), device=device).repeat_interleave(each)
    if stage.per_step:
        owner = owner[torch.randperm(count, generator=rng, device=rng.device)]
    span = torch.arange(p, device=device)
    rows = (corners[:, :1] + span)[:, :, None]
    columns = (corners[:, 1:] + span)[:, None, :]
    place = owner[:, None, None], rows, columns
    patches, targets = (
        (whole * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1)[place]
        for whole in (degraded.picture, degraded.target)
    )
    samplers = torch.stack([sampler(corner, p, side) for corner in corners.T])
    return patches.permute(0, 3, 1, 2), targets.permute(0, 3, 1, 2), samplers, owner


def sampler(start: Tensor, length: int, whole: int, cells: int = 16) -> Tensor:
    """Bilinear sampling of 16 prior cells at the centers of a tile's 16-pixel strips.

    The same rule as `varfix.engine.restoration.prior_maps`; a test compares them.

    Args:
        start: (N,) first pixels of the tiles.
        length: of a tile in pixels.
        whole: side of the image.
        cells: of the prior along it.

    Returns:
        (N, length / 16, 16).
    """
    strips = STRIDE * (torch.arange(length // STRIDE, device=start.device) + 0.5)
    centers = start[:, None] + strips
    position = (centers * (cells / whole) - 0.5).clamp(0.0, cells - 1.0)
    numbers = torch.arange(cells, device=start.device)
    return (1.0 - (position[..., None] - numbers).abs()).clamp_min(0.0)
