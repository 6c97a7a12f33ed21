"""Training objectives (VarFormer, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.networks.prior import Prior
from varfix.engine.networks.quantizer import Quantized

FLOOR = 1e-5
"""Added to the mean squared error before the logarithm: beyond 50 dB nothing is gained."""


def negative_psnr(restored: Tensor, target: Tensor) -> Tensor:
    """Mean over the batch of -PSNR in dB, the first term of eq. 8.

    Args:
        restored: (B, 3, H, W), target in [0, 1].
        target: the same shape.

    The logarithm makes a clean picture that must come back clean weigh as much as a dark one.
    """
    error = (restored - target).square().mean((1, 2, 3))
    return 10.0 * torch.log10(error + FLOOR).mean()


def tone_loss(toned: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of 8x8 block means: what tone can change, not the detail.

    Not -PSNR: its logarithm makes pictures that need nothing pull so hard that tone never leaves
    the identity (measured: no change in 400 steps, where this loss gains 5 dB in 150).
    """
    return functional.l1_loss(functional.avg_pool2d(toned, 8), functional.avg_pool2d(target, 8))


def feature_matching(prior: Prior, clean: Quantized) -> Tensor:
    """Eq. 7: cross-entropy of the predicted tokens, and F_a against the clean quantised latent."""
    predicted = functional.cross_entropy(prior.logits.flatten(0, 1), clean.tokens.flatten())
    return predicted + functional.mse_loss(prior.adapted, clean.latent)
