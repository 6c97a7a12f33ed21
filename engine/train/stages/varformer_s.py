"""The stages of VarFormer-S: trained weights, batches and losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.quantizer import Quantized, commitment
from varfix.engine.networks.layers.vqvae import Vqvae
from varfix.engine.networks.varformer_s.decisions import confident
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.model import VarformerS
from varfix.engine.networks.varformer_s.tone_grid import apply_tone
from varfix.engine.networks.varformer_s.unet import RestorerNetwork
from varfix.engine.train.data.batches import Batch, Batches
from varfix.engine.train.stages.judge import JudgeStage
from varfix.engine.train.stages.losses import (
    AMPLITUDE_WEIGHT,
    amplitude_loss,
    feature_matching,
    reconstruction,
    tone_loss,
)
from varfix.engine.train.stages.stage import PlainStage
from varfix.engine.train.stages.tone_fit import fit_grid

TONE_WEIGHT = 10.0
Losses = dict[str, Tensor]


def degradation_loss(logits: Tensor, present: Tensor) -> Tensor:
    """Return the cross-entropy of logits (P, 6) with the known degradations."""
    known = (present >= 0.0).to(logits.dtype)
    each = functional.binary_cross_entropy_with_logits(
        logits, present.clamp_min(0.0), reduction="none"
    )
    return (each * known).sum() / known.sum().clamp_min(1.0)


class VqvaeStage(PlainStage):
    """Stage 1a: clean images through the VQ-VAE."""

    name = "vqvae"

    def vqvae(self, model: Any) -> Vqvae:
        """Return the VQ-VAE."""
        return model.prior.vqvae

    def images(self, batch: Batch) -> Tensor:
        """Return the clean images (B, 3, side, side) to reconstruct."""
        return batch.clean

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """Return the weights of the VQ-VAE."""
        return list(self.vqvae(model).parameters())

    def losses(self, model: nn.Module, batch: Batch) -> Losses:
        """Return the L1 error and the two halves of the vector-quantization loss."""
        vqvae = self.vqvae(model)
        image = 2.0 * self.images(batch) - 1.0
        latent = vqvae.encode(image).float()
        with torch.autocast(latent.device.type, enabled=False):
            found: Quantized = vqvae.quantize(latent)
            codes = commitment(latent.detach(), found)
            latents = commitment(latent, found.detach())
        through = latent + (found.latent - latent).detach()
        decoded = vqvae.decode(through).float()
        return {"l1": functional.l1_loss(decoded, image), "codes": codes, "commit": 0.25 * latents}

    def start(self, model: nn.Module, batches: Batches) -> None:
        """Initialize the codebook with latents of images, so that every code is used."""
        vqvae = self.vqvae(model)
        codes = vqvae.quantize.embedding.weight
        with torch.no_grad():
            encoded = [vqvae.encode(2.0 * self.images(batches[i]) - 1.0) for i in range(2)]
            vectors = torch.cat([v.permute(0, 2, 3, 1).flatten(0, 2) for v in encoded])
            picks = torch.linspace(0, len(vectors) - 1, len(codes)).long()
            scale = torch.linspace(1.0, 0.1, len(codes))[torch.randperm(len(codes)), None]
            codes.copy_(vectors[picks] * scale)


class PriorStage(PlainStage):
    """Stage 1b: degraded thumbnails to clean tokens and tone; VQ-VAE and judge are frozen."""

    name = "prior"

    def parameters(self, model: VarformerS) -> list[nn.Parameter]:
        """Return the weights of the prior without VQ-VAE and judge."""
        others = ("vqvae.", "judge.")
        return [p for n, p in model.prior.named_parameters() if not n.startswith(others)]

    def losses(self, model: VarformerS, batch: Batch) -> Losses:
        """Return feature matching (eq. 7) and the tone loss."""
        with torch.no_grad(), torch.autocast(batch.clean.device.type, enabled=False):
            clean = model.prior.vqvae.quantized(2.0 * batch.clean - 1.0)
        found = model.prior.features(batch.thumbnail, batch.task)
        grid = model.prior.tone(found.features, found.statistics, batch.present.clamp_min(0.0))
        toned = tone_thumbnails(batch.thumbnail, grid.float())
        return {
            "feature": feature_matching(found, clean),
            "tone": TONE_WEIGHT * tone_loss(toned, batch.clean),
        }

    def start(self, model: VarformerS, batches: Batches) -> None:
        """Initialize the encoder of degraded images from the clean one."""
        del batches
        model.prior.init_encoder()


class HeadsStage(PlainStage):
    """Stage 1c: whole images to their degradations and their tone.

    Both heads need only thumbnails, which are created several times as fast as patches.
    """

    name = "heads"

    def parameters(self, model: VarformerS) -> list[nn.Parameter]:
        """Return the weights of the tone head and the degradation head."""
        return [*model.prior.tone.parameters(), *model.prior.evidence.parameters()]

    def losses(self, model: VarformerS, batch: Batch) -> Losses:
        """Return the cross-entropy of the scores, and the tone loss for the degradations present.

        The tone loss is computed before grids are suppressed: a suppressed grid has no gradient.
        """
        with torch.no_grad():
            found = model.prior.features(batch.thumbnail, batch.task)
        logits = model.prior.evidence(found.features, found.statistics).float()
        guess = confident(logits.detach().sigmoid())
        true = torch.where(batch.present < 0.0, guess, batch.present)
        grid = model.prior.tone(found.features, found.statistics, true).float()
        return {
            "tone": tone_loss(tone_thumbnails(batch.thumbnail, grid), batch.clean),
            "evidence": degradation_loss(logits, batch.present),
        }


CHUNK = 8
"""Images whose prior is computed at once; more do not fit the caches of a CPU."""


class RestorerStage(PlainStage):
    """Stage 2: patches with their part of the prior (eq. 8)."""

    name = "restorer"

    def parameters(self, model: VarformerS) -> list[nn.Parameter]:
        """Return the weights of the restorer."""
        return list(model.restorer.parameters())

    def prepare(self, model: VarformerS, pool: Batch) -> Batch:
        """Compute the prior of every image, once for all of its patches.

        Some images get the true scores and a fitted tone grid, so that the restorer does not depend
        on the current errors of the prior, and supports a better one.
        """
        with torch.no_grad():
            chunks = zip(pool.thumbnail.split(CHUNK), pool.task.split(CHUNK), strict=True)
            maps = torch.cat([model.prior(*chunk).maps.float() for chunk in chunks])
        increments, grid, scores = maps.split(model.restorer.parts, 1)
        given = pool.given_scores[..., None, None].expand_as(scores)
        scores = torch.where(given < 0.0, scores, given)
        return replace(
            pool, maps=torch.cat([increments, blend_fitted_grids(grid, pool), scores], 1)
        )

    def losses(self, model: VarformerS, batch: Batch) -> Losses:
        """Return the reconstruction loss of each patch (N,)."""
        pieces = sample_prior(batch.maps[batch.owner], batch.sampling)
        restored, _ = run_restorer(model.restorer, batch.patches, pieces)
        restored = restored.float()
        blurred = batch.present[batch.owner, KINDS.index("blur")] > 0.5
        sharpness = AMPLITUDE_WEIGHT * amplitude_loss(restored, batch.targets)
        return {"pixels": reconstruction(restored, batch.targets) + blurred * sharpness}


def blend_fitted_grids(grid: Tensor, pool: Batch) -> Tensor:
    """Blend tone grids (P, 96, 16, 16) with fitted ones, by the weights of the pool."""
    chosen = pool.fitted.nonzero()[:, 0]
    if len(chosen) == 0:
        return grid
    fitted = fit_grid(pool.thumbnail[chosen], pool.clean[chosen])
    moved = torch.lerp(grid[chosen], fitted, pool.fitted[chosen, None, None, None])
    return grid.index_copy(0, chosen, moved)


def tone_thumbnails(thumbnails: Tensor, grid: Tensor) -> Tensor:
    """Apply tone grids to thumbnails (B, 3, 256, 256)."""
    folded = functional.pixel_unshuffle(thumbnails, 2)
    return functional.pixel_shuffle(apply_tone(folded, grid), 2)


def sample_prior(maps: Tensor, sampling: Tensor) -> Tensor:
    """Sample maps (N, C, 16, 16) with matrices (2, N, h, 16); return (N, C, h, w)."""
    rows, columns = sampling[0][:, None], sampling[1][:, None]
    return rows @ maps @ columns.transpose(-1, -2)


def run_restorer(
    network: RestorerNetwork, patches: Tensor, pieces: Tensor
) -> tuple[Tensor, Tensor]:
    """Return restored and toned patches, in the memory layout in which convolutions are fastest."""
    layout = torch.channels_last
    restored, toned = network(
        patches.contiguous(memory_format=layout), pieces.contiguous(memory_format=layout)
    )
    return restored, toned


Stage = VqvaeStage | PriorStage | HeadsStage | JudgeStage | RestorerStage
STAGES: tuple[Stage, ...] = (
    VqvaeStage(),
    PriorStage(),
    HeadsStage(),
    JudgeStage(),
    RestorerStage(),
)
