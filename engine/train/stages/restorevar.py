"""How RestoreVAR is trained: writer, refiner and decoder, one after the other.

Source: parity/restorevar/SPEC.md, section 7, and the paper's section 3.3. The released training
begins with VAR's public VQ-VAE; where there is none, its training is the first stage.
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
from varfix.engine.train.stages.perception import seen_difference, structure
from varfix.engine.train.stages.stage import PlainStage
from varfix.engine.train.stages.varformer_s import Losses, VqvaeStage

WEIGHTS = {"structure": 0.5, "seen": 0.5, "deceive": 0.02, "critic": 1.0}
"""Of the decoder's losses beside L1; those of the released training are not published."""


class Studio(RestoreVar):
    """RestoreVAR and the critic that the decoder learns from."""

    def __init__(self, config: RestoreVarConfig, critic: int = 64) -> None:
        """Build untrained parts; `critic` is the critic's width."""
        super().__init__(
            Vqvae(config.vqvae), RestoreVarTransformer(config.writer), Refiner(config.refiner)
        )
        self.critic = PatchCritic(critic)
        self.writer.initialize()
        self.refiner.initialize()


class WholeVqvaeStage(VqvaeStage):
    """The VQ-VAE on clean images of the network's own size."""

    def vqvae(self, model: Studio) -> Vqvae:
        """What this stage trains."""
        return model.vqvae

    def pictures(self, batch: Batch) -> Tensor:
        """What it learns to draw."""
        return batch.targets


class WriterStage(PlainStage):
    """Cross-entropy of all tokens under teacher forcing; the condition is the damaged image."""

    name = "writer"

    def parameters(self, model: Studio) -> list[nn.Parameter]:
        """What this stage trains."""
        return list(model.writer.parameters())

    def losses(self, model: Studio, batch: Batch) -> Losses:
        """Every token counts the same, whatever its scale."""
        model.writer.train()
        clean, latent = learned_tokens(model, batch)
        logits = forced_logits(model, clean, latent)
        return {"tokens": functional.cross_entropy(logits.flatten(0, 1), clean.tokens.flatten())}


class RefinerStage(PlainStage):
    """The continuous latent of the clean image, from what the writer writes by itself."""

    name = "refiner"

    def parameters(self, model: Studio) -> list[nn.Parameter]:
        """What this stage trains."""
        return list(model.refiner.parameters())

    def losses(self, model: Studio, batch: Batch) -> Losses:
        """Mean absolute difference of latents, the target after `quant_conv`."""
        with torch.no_grad(), torch.autocast(batch.patches.device.type, enabled=False):
            model.writer.eval()  # it writes as it will in use: no block is left out
            damaged = model.vqvae.encoder(signed(batch.patches))
            written = model.writer(damaged, model.vqvae.quantize)
            wanted = model.vqvae.encode(signed(batch.targets))
        refined = model.refiner(written.prediction.latent, written.states)
        return {"latent": functional.l1_loss(refined.float(), wanted)}


class DecoderStage(PlainStage):
    """Clean images from their continuous latents; encoder and codebook stay as they are."""

    name = "decoder"

    def parameters(self, model: Studio) -> list[nn.Parameter]:
        """What this stage trains."""
        vqvae = model.vqvae
        trained = (vqvae.decoder, vqvae.post_quant_conv, model.critic)
        return [parameter for part in trained for parameter in part.parameters()]

    def losses(self, model: Studio, batch: Batch) -> Losses:
        """L1, SSIM, what the encoder sees, and the critic."""
        real = signed(batch.targets)
        with torch.no_grad():
            latent = model.vqvae.encode(real)
        drawn = model.vqvae.decode(latent)
        losses = {
            "structure": 1.0 - structure((drawn + 1.0) / 2.0, batch.targets),
            "seen": seen_difference(model.vqvae.encoder, drawn, real),
            **adversarial(model.critic, drawn, real),
        }
        weighted = {name: WEIGHTS[name] * loss for name, loss in losses.items()}
        return {"l1": functional.l1_loss(drawn.float(), real), **weighted}


def signed(pictures: Tensor) -> Tensor:
    """From [0, 1] to [-1, 1]."""
    return 2.0 * pictures - 1.0


def learned_tokens(model: Studio, batch: Batch) -> tuple[Quantized, Tensor]:
    """The clean images' tokens, and the damaged ones' latents; in single precision."""
    with torch.no_grad(), torch.autocast(batch.patches.device.type, enabled=False):
        clean = model.vqvae.quantized(signed(batch.targets))
        return clean, model.vqvae.encoder(signed(batch.patches))


def forced_logits(model: Studio, clean: Quantized, latent: Tensor) -> Tensor:
    """Logits (B, L, codes) of all tokens, given the clean tokens before them."""
    pyramid = model.vqvae.quantize.pyramid(clean.increments)
    return model.writer.teacher_forced_logits(model.writer.conditioning(latent), pyramid).float()


def restore_resized(model: Studio, pictures: Tensor, tasks: Tensor) -> Tensor:
    """Restore square images of any size in [0, 1], as the official script does.

    The network restores at its own size, and it is told no task.
    """
    del tasks
    side, own = pictures.shape[-1], model.vqvae.side
    resized = functional.interpolate(pictures, size=(own, own), mode="bicubic").clamp(0.0, 1.0)
    restored = model.eval().restore(signed(resized))
    return functional.interpolate(restored, size=(side, side), mode="bilinear", antialias=True)


STAGES = (WholeVqvaeStage(), WriterStage(), RefinerStage(), DecoderStage())
