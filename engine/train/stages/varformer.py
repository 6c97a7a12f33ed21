"""How the released VarFormer is trained: the prior's stage, then the restorer's.

Source: the paper's sections 3.1 to 3.3. Both begin with VAR's public VQ-VAE and transformer, which
stay as they are (`--init`); the losses are the paper's but for the two named below.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from varfix.engine.networks.varformer.model import Varformer
from varfix.engine.train.data.batches import Batch, Batches
from varfix.engine.train.stages.losses import charbonnier
from varfix.engine.train.stages.perception import seen_difference
from varfix.engine.train.stages.restorevar import restore_resized, signed
from varfix.engine.train.stages.stage import PlainStage
from varfix.engine.train.stages.varformer_s import Losses

SEEN_WEIGHT = 0.05
"""Of what the VQ-VAE's encoder sees, in place of the VGG of eq. 8, which is not public domain."""


class AdapterStage(PlainStage):
    """Stage 1: the degraded image's latent toward the clean one's, and its tokens likewise.

    VAR is frozen; the adapter and the cross-attention through which it is asked learn.
    """

    name = "adapter"

    def parameters(self, model: Varformer) -> list[nn.Parameter]:
        """What this stage trains."""
        return [*model.adapter.parameters(), *model.var.cross.parameters()]

    def losses(self, model: Varformer, batch: Batch) -> Losses:
        """Feature matching (eq. 7), each scale given the clean tokens of the coarser ones.

        In single precision: half of it changes tokens.
        """
        with torch.autocast(batch.patches.device.type, enabled=False):
            with torch.no_grad():
                clean = model.vqvae.quantized(signed(batch.targets))
            seen = model.prior(signed(batch.patches), tokens=clean.tokens)
        logits = seen.prediction.logits.flatten(0, 1)
        return {
            "tokens": functional.cross_entropy(logits, clean.tokens.flatten()),
            "latent": functional.mse_loss(seen.adapted, clean.latent),
        }

    def start(self, model: Varformer, batches: Batches) -> None:
        """Let the adapter begin as almost nothing: its gates would otherwise stay at zero."""
        del batches
        with torch.no_grad():
            for name, gate in model.adapter.named_parameters():
                if name.endswith(("beta", "gamma")) and not gate.any():
                    gate.fill_(0.1)


class RestorationStage(PlainStage):
    """Stage 2: main encoder and decoder with DAE and AFT, given the prior, which is frozen."""

    name = "restoration"

    def parameters(self, model: Varformer) -> list[nn.Parameter]:
        """What this stage trains."""
        return [*model.encoder.parameters(), *model.decoder.parameters()]

    def losses(self, model: Varformer, batch: Batch) -> Losses:
        """Charbonnier in place of eq. 8's -PSNR (see `losses.reconstruction`), and perception."""
        picture, real = signed(batch.patches), signed(batch.targets)
        with torch.no_grad(), torch.autocast(picture.device.type, enabled=False):
            guidance = model.prior(picture)
        restored = model.restore_with_prior(picture, guidance).float()
        seen = seen_difference(model.vqvae.encoder, signed(restored), real)
        return {"pixels": charbonnier(restored - batch.targets).mean(), "seen": SEEN_WEIGHT * seen}

    def start(self, model: Varformer, batches: Batches) -> None:
        """Begin with the VQ-VAE's layers, where the main branch is still untouched."""
        del batches
        adopt_vqvae(model)


def adopt_vqvae(model: Varformer) -> None:
    """Copy the VQ-VAE's encoder into a main encoder that nobody has trained.

    Both have the same layers. Whether it was trained shows in the decoder's mix: it begins at zero.
    """
    if model.decoder.theta.any():
        return
    own = model.encoder.state_dict()
    shared = {k: v for k, v in model.vqvae.encoder.state_dict().items() if k in own}
    model.encoder.load_state_dict(shared, strict=False)


def restore(model: Varformer, pictures: Tensor, tasks: Tensor) -> Tensor:
    """Restore images of any size in [0, 1] at the network's own, for the sample sheets."""
    return restore_resized(model, pictures, tasks)  # type: ignore[arg-type]


STAGES = (AdapterStage(), RestorationStage())
