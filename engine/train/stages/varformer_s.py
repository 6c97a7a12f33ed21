"""The stages of training: what each learns, from which batches, by which loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.quantizer import Quantized, commitment
from varfix.engine.networks.layers.vqvae import Vqvae
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.model import VarformerS
from varfix.engine.networks.varformer_s.unet import RestorerNetwork
from varfix.engine.train.data.pairs import OWN
from varfix.engine.train.data.source import Source
from varfix.engine.train.degradations.mix import DEGRADATIONS, Degraded
from varfix.engine.train.degradations.random_draws import integer
from varfix.engine.train.recipes.recipe import StageRecipe
from varfix.engine.train.stages.judge import JudgeStage
from varfix.engine.train.stages.losses import feature_matching, reconstruction

STRIDE = 16
THUMBNAIL = 256
Losses = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What a step sees.

    Attributes:
        thumbnail: (P, 3, 256, 256), whole degraded images.
        clean: (P, 3, 256, 256), the same images clean.
        task: (P,) int64.
        present: (P, 6) float32, 1 where a kind of `evidence.KINDS` is in the image, 0 where it is
            not, -1 where nobody knows.
        patches: (P * n, 3, p, p) cut from the degraded images, picture-major.
        targets: the same patches, clean.
        samplers: (2, P * n, p / 16, 16), rows and columns that sample the prior on each patch.
    """

    thumbnail: Tensor
    clean: Tensor
    task: Tensor
    present: Tensor
    patches: Tensor
    targets: Tensor
    samplers: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


class Batches(torch.utils.data.Dataset[Batch]):
    """Batch number `i` of a stage, always the same for the same recipe."""

    def __init__(self, source: Source, stage: StageRecipe, seed: int, device: torch.device) -> None:
        self.source, self.stage, self.seed, self.device = source, stage, seed, device

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, step: int) -> Batch:
        """Cut, degrade, shrink."""
        rng = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + step)
        side = self.stage.sides[integer(0, len(self.stage.sides), rng)]
        degraded = self.source.draw(self.stage.pictures, side, rng)
        patches, targets, samplers = cut_patches(degraded, self.stage, rng)
        return Batch(
            thumbnail=shrink(degraded.picture),
            clean=shrink(degraded.target),
            task=degraded.task,
            present=present_kinds(degraded.names).to(self.device),
            patches=patches,
            targets=targets,
            samplers=samplers,
        )


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


def cut_patches(
    degraded: Degraded, stage: StageRecipe, rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Random patches of each image, their targets, and the samplers of their prior."""
    side, p = degraded.picture.shape[-1], stage.patch
    count = (stage.pictures * stage.patches, 2)
    corners = torch.randint(0, side - p + 1, count, generator=rng, device=rng.device).tolist()
    patches, targets, samplers = [], [], []
    for i, (top, left) in enumerate(corners):
        window = (i // stage.patches, slice(None), slice(top, top + p), slice(left, left + p))
        patches.append(degraded.picture[window])
        targets.append(degraded.target[window])
        samplers.append(torch.stack([sampler(top, p, side), sampler(left, p, side)]))
    if not patches:
        empty = degraded.picture[:0]
        return empty, empty, torch.empty(2, 0, p // STRIDE, THUMBNAIL // STRIDE)
    return torch.stack(patches), torch.stack(targets), torch.stack(samplers, 1)


def sampler(start: int, length: int, whole: int, cells: int = 16) -> Tensor:
    """Bilinear sampling of 16 prior cells at the centers of a tile's 16-pixel strips.

    The same rule as `engine/restoration/prior_maps.py`, as a (length / 16, 16) matrix; a test
    compares them.
    """
    centers = start + STRIDE * (torch.arange(length // STRIDE) + 0.5)
    position = (centers * (cells / whole) - 0.5).clamp(0.0, cells - 1.0)
    return (1.0 - (position[:, None] - torch.arange(cells)).abs()).clamp_min(0.0)


class VqvaeStage:
    """Stage 1a: clean images through the VQ-VAE."""

    name = "vqvae"

    def vqvae(self, model: Any) -> Vqvae:
        """The part of the model that this stage trains."""
        return model.prior.vqvae

    def pictures(self, batch: Batch) -> Tensor:
        """The clean images (B, 3, side, side) that it learns to draw."""
        return batch.clean

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """What this stage trains."""
        return list(self.vqvae(model).parameters())

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """L1 reconstruction and the two halves of the vector-quantization loss."""
        vqvae = self.vqvae(model)
        picture = 2.0 * self.pictures(batch) - 1.0
        latent = vqvae.encode(picture).float()
        with torch.autocast(latent.device.type, enabled=False):
            found: Quantized = vqvae.quantize(latent)
            codes = commitment(latent.detach(), found)
            pulled = commitment(latent, found.detach())
        through = latent + (found.latent - latent).detach()
        drawn = vqvae.decode(through).float()
        return {"l1": functional.l1_loss(drawn, picture), "codes": codes, "commit": 0.25 * pulled}

    def start(self, model: nn.Module, batches: Batches) -> None:
        """Start the codebook from latents that really occur, so that no code begins dead."""
        vqvae = self.vqvae(model)
        codes = vqvae.quantize.embedding.weight
        with torch.no_grad():
            latents = [vqvae.encode(2.0 * self.pictures(batches[i]) - 1.0) for i in range(2)]
            vectors = torch.cat([v.permute(0, 2, 3, 1).flatten(0, 2) for v in latents])
            picks = torch.linspace(0, len(vectors) - 1, len(codes)).long()
            scale = torch.linspace(1.0, 0.1, len(codes))[torch.randperm(len(codes)), None]
            codes.copy_(vectors[picks] * scale)


class PriorStage:
    """Stage 1b: degraded thumbnails to clean tokens; the VQ-VAE and the judge stay as they are."""

    name = "prior"

    def parameters(self, model: VarformerS) -> list[nn.Parameter]:
        """What this stage trains."""
        others = ("vqvae.", "judge.")
        return [p for n, p in model.prior.named_parameters() if not n.startswith(others)]

    def losses(self, model: VarformerS, batch: Batch) -> Losses:
        """Feature matching (eq. 7)."""
        with torch.no_grad(), torch.autocast(batch.clean.device.type, enabled=False):
            clean = model.prior.vqvae.quantized(2.0 * batch.clean - 1.0)
        predicted = model.prior.predict(batch.thumbnail, batch.task)
        return {"feature": feature_matching(predicted, clean)}

    def start(self, model: VarformerS, batches: Batches) -> None:
        """Start the encoder of degraded images from the clean one."""
        del batches
        model.prior.adopt_vqvae()


class RestorerStage:
    """Stage 2: patches with their piece of the prior (eq. 8)."""

    name = "restorer"

    def parameters(self, model: VarformerS) -> list[nn.Parameter]:
        """What this stage trains."""
        return list(model.restorer.parameters())

    def losses(self, model: VarformerS, batch: Batch) -> Losses:
        """Reconstruction of the patches."""
        with torch.no_grad():
            maps = model.prior(batch.thumbnail, batch.task).maps
        each = len(batch.patches) // len(batch.thumbnail)
        pieces = sample_prior(maps.float().repeat_interleave(each, 0), batch.samplers)
        restored, _ = run_restorer(model.restorer, batch.patches, pieces)
        return {"pixels": reconstruction(restored.float(), batch.targets)}

    def start(self, model: VarformerS, batches: Batches) -> None:
        """Nothing: the network starts as the identity after tone."""


def sample_prior(maps: Tensor, samplers: Tensor) -> Tensor:
    """Pieces (N, C, h, w) of maps (N, C, 16, 16), sampled by (2, N, h, 16)."""
    rows, columns = samplers[0][:, None], samplers[1][:, None]
    return rows @ maps @ columns.transpose(-1, -2)


def run_restorer(
    network: RestorerNetwork, patches: Tensor, pieces: Tensor
) -> tuple[Tensor, Tensor]:
    """Restored and toned patches, in the memory layout that convolutions are fastest in."""
    layout = torch.channels_last
    restored, toned = network(
        patches.contiguous(memory_format=layout), pieces.contiguous(memory_format=layout)
    )
    return restored, toned


Stage = VqvaeStage | PriorStage | JudgeStage | RestorerStage
STAGES: tuple[Stage, ...] = (VqvaeStage(), PriorStage(), JudgeStage(), RestorerStage())
