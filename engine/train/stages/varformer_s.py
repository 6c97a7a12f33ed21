"""The four stages of training: what each learns, from which batches, by which loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.quantizer import Quantized, commitment
from varfix.engine.networks.layers.vqvae import Vqvae
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.model import VarformerS
from varfix.engine.networks.varformer_s.tone_grid import apply_tone, confident
from varfix.engine.networks.varformer_s.unet import RestorerNetwork
from varfix.engine.train.data.batches import Batch, Batches
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


def evidence_loss(told: Tensor, present: Tensor) -> Tensor:
    """Cross-entropy of logits (P, 6) with what is there, where that is known."""
    known = (present >= 0.0).to(told.dtype)
    each = functional.binary_cross_entropy_with_logits(
        told, present.clamp_min(0.0), reduction="none"
    )
    return (each * known).sum() / known.sum().clamp_min(1.0)


class VqvaeStage(PlainStage):
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


class PriorStage(PlainStage):
    """Stage 1b: degraded thumbnails to clean tokens and tone; the VQ-VAE stays as it is."""

    name = "prior"

    def parameters(self, model: VarformerS) -> list[nn.Parameter]:
        """What this stage trains."""
        return [p for n, p in model.prior.named_parameters() if not n.startswith("vqvae.")]

    def losses(self, model: VarformerS, batch: Batch) -> Losses:
        """Feature matching (eq. 7) and tone."""
        with torch.no_grad(), torch.autocast(batch.clean.device.type, enabled=False):
            clean = model.prior.vqvae.quantized(2.0 * batch.clean - 1.0)
        seen = model.prior.look(batch.thumbnail, batch.task)
        grid = model.prior.tone(seen.features, seen.statistics, batch.present.clamp_min(0.0))
        toned = tone_thumbnails(batch.thumbnail, grid.float())
        return {
            "feature": feature_matching(seen, clean),
            "tone": TONE_WEIGHT * tone_loss(toned, batch.clean),
        }

    def start(self, model: VarformerS, batches: Batches) -> None:
        """Start the encoder of degraded images from the clean one."""
        del batches
        model.prior.adopt_vqvae()


class HeadsStage(PlainStage):
    """Stage 1c: whole images to what is wrong with them, and to their tone.

    Both are judged from thumbnails alone, which come several times faster than patches do.
    """

    name = "heads"

    def parameters(self, model: VarformerS) -> list[nn.Parameter]:
        """What this stage trains."""
        return [*model.prior.tone.parameters(), *model.prior.evidence.parameters()]

    def losses(self, model: VarformerS, batch: Batch) -> Losses:
        """Cross-entropy of the evidence, and tone for what is really there.

        Tone counts before doubts are dropped: a dropped grid would teach nothing.
        """
        with torch.no_grad():
            seen = model.prior.look(batch.thumbnail, batch.task)
        told = model.prior.evidence(seen.features, seen.statistics).float()
        guess = confident(told.detach().sigmoid())
        true = torch.where(batch.present < 0.0, guess, batch.present)
        grid = model.prior.tone(seen.features, seen.statistics, true).float()
        return {
            "tone": tone_loss(tone_thumbnails(batch.thumbnail, grid), batch.clean),
            "evidence": evidence_loss(told, batch.present),
        }


CHUNK = 8
"""Images whose prior is computed at once: more do not fit into a CPU's caches."""


class RestorerStage(PlainStage):
    """Stage 2: patches with their piece of the prior (eq. 8)."""

    name = "restorer"

    def parameters(self, model: VarformerS) -> list[nn.Parameter]:
        """What this stage trains."""
        return list(model.restorer.parameters())

    def prepare(self, model: VarformerS, pool: Batch) -> Batch:
        """Compute the prior of every image, once for all of its patches.

        Some are told the truth and given the tone grid that fits it: so the restorer neither
        depends on the faults of today's judge nor spoils what a better one decides.
        """
        with torch.no_grad():
            chunks = zip(pool.thumbnail.split(CHUNK), pool.task.split(CHUNK), strict=True)
            maps = torch.cat([model.prior(*chunk).maps.float() for chunk in chunks])
        increments, grid, evidence = maps.split(model.restorer.parts, 1)
        told = pool.told[..., None, None].expand_as(evidence)
        evidence = torch.where(told < 0.0, evidence, told)
        return replace(pool, maps=torch.cat([increments, better_grid(grid, pool), evidence], 1))

    def losses(self, model: VarformerS, batch: Batch) -> Losses:
        """Reconstruction of each patch (N,)."""
        pieces = sample_prior(batch.maps[batch.owner], batch.samplers)
        restored, _ = run_restorer(model.restorer, batch.patches, pieces)
        restored = restored.float()
        blurred = batch.present[batch.owner, KINDS.index("blur")] > 0.5
        sharpness = AMPLITUDE_WEIGHT * amplitude_loss(restored, batch.targets)
        return {"pixels": reconstruction(restored, batch.targets) + blurred * sharpness}


def better_grid(grid: Tensor, pool: Batch) -> Tensor:
    """Tone grids (P, 96, 16, 16) moved toward those that fit, where the pool says so."""
    chosen = pool.fitted.nonzero()[:, 0]
    if len(chosen) == 0:
        return grid
    fitted = fit_grid(pool.thumbnail[chosen], pool.clean[chosen])
    moved = torch.lerp(grid[chosen], fitted, pool.fitted[chosen, None, None, None])
    return grid.index_copy(0, chosen, moved)


def tone_thumbnails(thumbnails: Tensor, grid: Tensor) -> Tensor:
    """Thumbnails (B, 3, 256, 256) after their tone grids."""
    folded = functional.pixel_unshuffle(thumbnails, 2)
    return functional.pixel_shuffle(apply_tone(folded, grid), 2)


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


Stage = VqvaeStage | PriorStage | HeadsStage | RestorerStage
STAGES: tuple[Stage, ...] = (VqvaeStage(), PriorStage(), HeadsStage(), RestorerStage())
