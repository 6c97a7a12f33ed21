"""Batches and pools of training images: cropped, degraded, shrunk, and split into patches.

A pool is degraded once and split into the batches of many steps. In small steps with patches of
several images, the network learns several times as fast as in large steps with whole images, and
the prior of an image is computed only once for all of its patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.tone_grid import TONE_KINDS
from varfix.engine.train.data.pairs import OWN
from varfix.engine.train.data.source import Source
from varfix.engine.train.degradations.mix import DEGRADATIONS, Degraded
from varfix.engine.train.degradations.random_draws import chance, integer, uniform
from varfix.engine.train.recipes.recipe import StageRecipe

STRIDE = 16
THUMBNAIL = 256

GROUPS = (*DEGRADATIONS, OWN)
"""Kinds by which losses are reported and balanced."""

WIDE = 2
"""Side of wide patches, relative to other patches."""


@dataclass(frozen=True)
class Batch:
    """The data of a step, or a pool for several steps.

    Attributes:
        thumbnail: (P, 3, 256, 256), whole degraded images.
        clean: (P, 3, 256, 256), the same images without degradation.
        task: (P,) int64.
        present: (P, 6) float32: 1 if the image has a degradation of `KINDS`, 0 if not, -1 if
            unknown.
        given_scores: (P, 6) float32, degradation scores for the restorer; -1 to use those of the
            prior.
        fitted: (P,) float32, weight of the fitted tone grid, against that of the prior.
        group: (P,) int64, indices in `GROUPS`.
        patches: (N, 3, p, p) of the degraded images, uint8, in random order.
        targets: The same patches of the clean images.
        sampling: (2, N, p / 16, 16), matrices that sample the prior on each patch, by row and
            column.
        owner: (N,) int64, the image of each patch.
        maps: (P, 422, 16, 16), the prior of each image; empty until it is computed.
    """

    thumbnail: Tensor
    clean: Tensor
    task: Tensor
    present: Tensor
    given_scores: Tensor
    fitted: Tensor
    group: Tensor
    patches: Tensor
    targets: Tensor
    sampling: Tensor
    owner: Tensor
    maps: Tensor

    def to(self, device: torch.device) -> Batch:
        """Return the batch on another device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})

    @property
    def kinds(self) -> Tensor:
        """(N,) int64, the index in `GROUPS` of each patch."""
        return self.group[self.owner]

    def split(self, part: int, parts: int) -> Batch:
        """Return one of `parts` equal parts of the patches in float32, with all images."""
        count = len(self.patches) // parts
        mine = slice(part * count, (part + 1) * count)
        return replace(
            self,
            patches=self.patches[mine].float() / 255.0,
            targets=self.targets[mine].float() / 255.0,
            sampling=self.sampling[:, mine],
            owner=self.owner[mine],
        )


class Batches(torch.utils.data.Dataset[Batch]):
    """The batches or pools of a stage; equal arguments give equal batches."""

    def __init__(self, source: Source, stage: StageRecipe, seed: int, device: torch.device) -> None:
        self.source, self.stage, self.seed, self.device = source, stage, seed, device

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> Batch:
        """Create batch or pool number `step`."""
        rng = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + step)
        side = self.stage.image_sizes[integer(0, len(self.stage.image_sizes), rng)]
        degraded = self.source.draw(self.stage.batch_size, side, rng)
        patches, targets, sampling, owner = extract_patches(degraded, self.stage, rng)
        present = present_kinds(degraded.names).to(self.device)
        return Batch(
            thumbnail=shrink(degraded.image),
            clean=shrink(degraded.target),
            task=degraded.task,
            present=present,
            given_scores=draw_given_scores(present, self.stage.informed, rng),
            fitted=fitted_shares(present, self.stage.fitted, rng),
            group=torch.tensor([GROUPS.index(name) for name in degraded.names], device=self.device),
            patches=patches,
            targets=targets,
            sampling=sampling,
            owner=owner,
            maps=patches.new_empty(0, dtype=torch.float32),
        )


def draw_given_scores(present: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Return the true scores (P, 6), slightly perturbed, for a share of the images; else -1."""
    doubt = uniform(tuple(present.shape), 0.0, 1.0, rng) ** 3 * 0.5
    sure = (present - doubt).abs()
    given = (uniform((len(present), 1), 0.0, 1.0, rng) < share) & (present >= 0.0)
    return torch.where(given, sure, -torch.ones_like(sure))


def present_kinds(names: Sequence[str]) -> Tensor:
    """Return which of `KINDS` each degradation contains, (P, 6); -1 for the user's own pairs.

    Args:
        names: Keys of `DEGRADATIONS`, or `OWN`.
    """
    return torch.tensor([_present(name) for name in names])


def _present(name: str) -> list[float]:
    if name == OWN:
        return [-1.0] * len(KINDS)
    found = {DEGRADATIONS[part][1] if part in DEGRADATIONS else part for part in name.split("+")}
    return [float(kind in found) for kind in KINDS]


def shrink(images: Tensor) -> Tensor:
    """Return thumbnails (B, 3, 256, 256) by area averaging, as in inference."""
    if images.shape[-1] == THUMBNAIL:
        return images
    return functional.interpolate(images, size=(THUMBNAIL, THUMBNAIL), mode="area")


def fitted_shares(present: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Return the weights (P,) of fitted grids, above 0 for a share of images with shifted tones."""
    shifting = [KINDS.index(kind) for kind in TONE_KINDS]
    shifted = present[:, shifting].amax(1) > 0.5
    chosen = shifted & (uniform((len(present),), 0.0, 1.0, rng) < share)
    return chosen * uniform((len(present),), 0.6, 1.0, rng)


def extract_patches(
    degraded: Degraded, stage: StageRecipe, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Extract random patches; return patches, targets, sampling matrices and images of the patches.

    Indexing extracts all patches at once: on a GPU, every slice of every patch would be a kernel.
    """
    device, side = degraded.image.device, degraded.image.shape[-1]
    p, each = stage.patch, stage.patches
    if stage.wide and chance(stage.wide, rng):
        p, each = WIDE * p, each // WIDE**2
    count = len(degraded.image) * each
    corners = torch.randint(0, side - p + 1, (count, 2), generator=rng, device=rng.device)
    owner = torch.arange(len(degraded.image), device=device).repeat_interleave(each)
    if stage.per_step:
        owner = owner[torch.randperm(count, generator=rng, device=rng.device)]
    span = torch.arange(p, device=device)
    rows = (corners[:, :1] + span)[:, :, None]
    columns = (corners[:, 1:] + span)[:, None, :]
    place = owner[:, None, None], rows, columns
    patches, targets = (
        (whole * 255.0).round().to(torch.uint8).permute(0, 2, 3, 1)[place]
        for whole in (degraded.image, degraded.target)
    )
    sampling = torch.stack([sampling_matrix(corner, p, side) for corner in corners.T])
    return patches.permute(0, 3, 1, 2), targets.permute(0, 3, 1, 2), sampling, owner


def sampling_matrix(start: Tensor, length: int, whole: int, cells: int = 16) -> Tensor:
    """Return matrices that sample 16 prior cells at the centers of a tile's strips of 16 pixels.

    The rule is that of `varfix.engine.restoration.prior_maps`; a test compares both.

    Args:
        start: (N,) first pixels of the tiles.
        length: Length of a tile in pixels.
        whole: Side of the image in pixels.
        cells: Cells of the prior along the image.

    Returns:
        (N, length / 16, 16).
    """
    strips = STRIDE * (torch.arange(length // STRIDE, device=start.device) + 0.5)
    centers = start[:, None] + strips
    position = (centers * (cells / whole) - 0.5).clamp(0.0, cells - 1.0)
    numbers = torch.arange(cells, device=start.device)
    return (1.0 - (position[..., None] - numbers).abs()).clamp_min(0.0)
