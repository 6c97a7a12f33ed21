"""The stage of a specialist: patches with a few kinds of degradation, and their targets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.specialist import SpecialistNetwork
from varfix.engine.train.data.batches import Batch
from varfix.engine.train.stages.losses import amplitude_loss, charbonnier
from varfix.engine.train.stages.stage import PlainStage

SHARPNESS_WEIGHT = 0.1
"""Weight of the spectrum's amplitudes, relative to the pixels, for blurred patches."""


class SpecialistStage(PlainStage):
    """Trains a specialist with patches, without a prior."""

    name = "specialist"

    def parameters(self, model: SpecialistNetwork) -> list[nn.Parameter]:
        """Return the weights of the network."""
        return list(model.parameters())

    def losses(self, model: SpecialistNetwork, batch: Batch) -> dict[str, Tensor]:
        """Return the loss of each patch (N,): Charbonnier, and amplitudes of blurred ones."""
        restored = model(batch.patches.contiguous(memory_format=torch.channels_last)).float()
        pixels = charbonnier(restored - batch.targets)
        blurred = batch.present[batch.owner, KINDS.index("blur")] > 0.5
        if blurred.any():
            pixels = pixels + blurred * SHARPNESS_WEIGHT * amplitude_loss(restored, batch.targets)
        return {"pixels": pixels}


def restore(model: SpecialistNetwork, images: Tensor, tasks: Tensor) -> Tensor:
    """Restore images (B, 3, H, W) in [0, 1], for the sample sheets; tasks are not used."""
    del tasks
    return model(images).clamp(0.0, 1.0)


STAGES = (SpecialistStage(),)
