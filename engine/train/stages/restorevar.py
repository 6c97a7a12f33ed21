"""The stages of RestoreVAR: VQ-VAE, transformer, refiner and decoder, one after the other.

Source: engine/networks/README.md, "RestoreVAR", and section 3.3 of the paper. The published
training
begins with VAR's published VQ-VAE; without it, the first stage trains one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.layers.quantizer import Quantized
from varfix.engine.networks.layers.vqvae import Vqvae
from varfix.engine.networks.restorevar.model import RestoreVar, RestoreVarConfig
from varfix.engine.networks.restorevar.refiner import Refiner
from varfix.engine.networks.restorevar.transformer import RestoreVarTransformer
from varfix.engine.train.data.batches import Batch
from varfix.engine.train.stages.critic import PatchCritic, adversarial
from varfix.engine.train.stages.perception import perceptual_distance, structural_similarity
from varfix.engine.train.stages.stage import PlainStage
from varfix.engine.train.stages.varformer_s import Losses, VqvaeStage

WEIGHTS = {"structure": 0.5, "seen": 0.5, "deceive": 0.02, "critic": 1.0}
"""Weights of the decoder's losses, relative to L1; the published training does not state its
weights."""


class RestoreVarWithCritic(RestoreVar):
    """RestoreVAR and the critic of the decoder's stage."""

    def __init__(self, config: RestoreVarConfig, critic: int = 64) -> None:
        """Build untrained parts; `critic` is the width of the critic."""
        super().__init__(
            Vqvae(config.vqvae), RestoreVarTransformer(config.writer), Refiner(config.refiner)
        )
        self.critic = PatchCritic(critic)
        self.writer.initialize()
        self.refiner.initialize()


class FullSizeVqvaeStage(VqvaeStage):
    """Trains the VQ-VAE on clean images of the network's own size."""

    def vqvae(self, model: RestoreVarWithCritic) -> Vqvae:
        """Return the VQ-VAE."""
        return model.vqvae

    def images(self, batch: Batch) -> Tensor:
        """Return the clean images (B, 3, side, side) to reconstruct."""
        return batch.targets


class TransformerStage(PlainStage):
    """Trains the transformer: teacher-forced cross-entropy, given the degraded image."""

    name = "writer"

    def parameters(self, model: RestoreVarWithCritic) -> list[nn.Parameter]:
        """Return the weights of the transformer."""
        return list(model.writer.parameters())

    def losses(self, model: RestoreVarWithCritic, batch: Batch) -> Losses:
        """Return the cross-entropy; tokens of all scales have the same weight."""
        model.writer.train()
        clean, latent = clean_tokens(model, batch)
        logits = teacher_forced_logits(model, clean, latent)
        return {"tokens": functional.cross_entropy(logits.flatten(0, 1), clean.tokens.flatten())}


class RefinerStage(PlainStage):
    """Trains the refiner: the clean image's latent, given the transformer's own prediction."""

    name = "refiner"

    def parameters(self, model: RestoreVarWithCritic) -> list[nn.Parameter]:
        """Return the weights of the refiner."""
        return list(model.refiner.parameters())

    def losses(self, model: RestoreVarWithCritic, batch: Batch) -> Losses:
        """Return the mean absolute difference of latents; the target is that after `quant_conv`."""
        with torch.no_grad(), torch.autocast(batch.patches.device.type, enabled=False):
            model.writer.eval()  # predicts as in inference: no block is dropped
            degraded = model.vqvae.encoder(signed(batch.patches))
            written = model.writer(degraded, model.vqvae.quantize)
            wanted = model.vqvae.encode(signed(batch.targets))
        refined = model.refiner(written.prediction.latent, written.states)
        return {"latent": functional.l1_loss(refined.float(), wanted)}


class DecoderStage(PlainStage):
    """Trains the decoder on continuous latents of clean images; encoder and codebook are frozen."""

    name = "decoder"

    def parameters(self, model: RestoreVarWithCritic) -> list[nn.Parameter]:
        """Return the weights of decoder and critic."""
        vqvae = model.vqvae
        trained = (vqvae.decoder, vqvae.post_quant_conv, model.critic)
        return [parameter for part in trained for parameter in part.parameters()]

    def losses(self, model: RestoreVarWithCritic, batch: Batch) -> Losses:
        """Return L1, SSIM, the perceptual distance, and the losses of the critic."""
        real = signed(batch.targets)
        with torch.no_grad():
            latent = model.vqvae.encode(real)
        generated = model.vqvae.decode(latent)
        losses = {
            "structure": 1.0 - structural_similarity((generated + 1.0) / 2.0, batch.targets),
            "seen": perceptual_distance(model.vqvae.encoder, generated, real),
            **adversarial(model.critic, generated, real),
        }
        weighted = {name: WEIGHTS[name] * loss for name, loss in losses.items()}
        return {"l1": functional.l1_loss(generated.float(), real), **weighted}


def signed(images: Tensor) -> Tensor:
    """Map [0, 1] to [-1, 1]."""
    return 2.0 * images - 1.0


def clean_tokens(model: RestoreVarWithCritic, batch: Batch) -> tuple[Quantized, Tensor]:
    """Return the tokens of the clean images, and the latents of the degraded ones, in fp32."""
    with torch.no_grad(), torch.autocast(batch.patches.device.type, enabled=False):
        clean = model.vqvae.quantized(signed(batch.targets))
        return clean, model.vqvae.encoder(signed(batch.patches))


def teacher_forced_logits(model: RestoreVarWithCritic, clean: Quantized, latent: Tensor) -> Tensor:
    """Return the logits (B, L, codes) of all tokens, given the clean tokens of coarser scales."""
    pyramid = model.vqvae.quantize.pyramid(clean.increments)
    return model.writer.teacher_forced_logits(model.writer.conditioning(latent), pyramid).float()


def restore_resized(model: RestoreVarWithCritic, images: Tensor, tasks: Tensor) -> Tensor:
    """Restore square images of any size in [0, 1], as the official script does.

    The network restores at its own size, and has no input for a task.
    """
    del tasks
    side, own = images.shape[-1], model.vqvae.side
    resized = functional.interpolate(images, size=(own, own), mode="bicubic").clamp(0.0, 1.0)
    restored = model.eval().restore(signed(resized))
    return functional.interpolate(restored, size=(side, side), mode="bilinear", antialias=True)


STAGES = (FullSizeVqvaeStage(), TransformerStage(), RefinerStage(), DecoderStage())
