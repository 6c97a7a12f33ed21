"""The stages of VarFormer as published: the prior, then the restoration.

Source: sections 3.1 to 3.3 of the paper. Both begin with VAR's published VQ-VAE and transformer,
which are frozen (`--init`). The losses are those of the paper, except for two that are described
where they are computed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.varformer.model import Varformer
from varfix.engine.train.data.batches import Batch, Batches
from varfix.engine.train.stages.losses import charbonnier
from varfix.engine.train.stages.perception import perceptual_distance
from varfix.engine.train.stages.restorevar import restore_resized, signed
from varfix.engine.train.stages.stage import PlainStage
from varfix.engine.train.stages.varformer_s import Losses

PERCEPTUAL_WEIGHT = 0.05
"""Weight of the perceptual distance, which replaces the VGG loss of eq. 8: VGG's weights are not in
the public domain."""


class AdapterStage(PlainStage):
    """Stage 1: trains adapter and cross-attention to predict the clean latent and tokens.

    VAR is frozen.
    """

    name = "adapter"

    def parameters(self, model: Varformer) -> list[nn.Parameter]:
        """Return the weights of adapter and cross-attention."""
        return [*model.adapter.parameters(), *model.var.cross.parameters()]

    def losses(self, model: Varformer, batch: Batch) -> Losses:
        """Return feature matching (eq. 7), with the clean tokens of the coarser scales given.

        It is computed in single precision, because half precision changes tokens.
        """
        with torch.autocast(batch.patches.device.type, enabled=False):
            with torch.no_grad():
                clean = model.vqvae.quantized(signed(batch.targets))
            found = model.prior(signed(batch.patches), tokens=clean.tokens)
        logits = found.prediction.logits.flatten(0, 1)
        return {
            "tokens": functional.cross_entropy(logits, clean.tokens.flatten()),
            "latent": functional.mse_loss(found.adapted, clean.latent),
        }

    def start(self, model: Varformer, batches: Batches) -> None:
        """Set the adapter's gates to small values, because gates of zero get no gradient."""
        del batches
        with torch.no_grad():
            for name, gate in model.adapter.named_parameters():
                if name.endswith(("beta", "gamma")) and not gate.any():
                    gate.fill_(0.1)


class RestorationStage(PlainStage):
    """Stage 2: main encoder and decoder with DAE and AFT; the prior is frozen."""

    name = "restoration"

    def parameters(self, model: Varformer) -> list[nn.Parameter]:
        """Return the weights of main encoder and decoder."""
        return [*model.encoder.parameters(), *model.decoder.parameters()]

    def losses(self, model: Varformer, batch: Batch) -> Losses:
        """Return the Charbonnier loss (see `losses.reconstruction`) and the perceptual distance."""
        image, real = signed(batch.patches), signed(batch.targets)
        with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            guidance = model.prior(image)
        restored = model.restore_with_prior(image, guidance).float()
        distance = perceptual_distance(model.vqvae.encoder, signed(restored), real)
        return {
            "pixels": charbonnier(restored - batch.targets).mean(),
            "seen": PERCEPTUAL_WEIGHT * distance,
        }

    def start(self, model: Varformer, batches: Batches) -> None:
        """Copy the VQ-VAE's layers into an untrained main encoder."""
        del batches
        init_main_encoder(model)


def init_main_encoder(model: Varformer) -> None:
    """Copy the VQ-VAE's encoder, which has the same layers, into an untrained main encoder.

    The decoder's mix-up weights are zero until they are trained.
    """
    if model.decoder.theta.any():
        return
    own = model.encoder.state_dict()
    shared = {k: v for k, v in model.vqvae.encoder.state_dict().items() if k in own}
    model.encoder.load_state_dict(shared, strict=False)


def restore(model: Varformer, images: Tensor, tasks: Tensor) -> Tensor:
    """Restore images of any size in [0, 1] at the network's own size, for the sample sheets."""
    return restore_resized(model, images, tasks)  # type: ignore[arg-type]


STAGES = (AdapterStage(), RestorationStage())
