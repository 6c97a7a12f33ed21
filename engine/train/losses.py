"""Training objectives (VarFormer, section 3.3)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from varfix.engine.networks.prior import Seen
from varfix.engine.networks.quantizer import Quantized

SHARPNESS = 1e-3
"""Below this difference the Charbonnier loss is quadratic."""


def reconstruction(restored: Tensor, target: Tensor) -> Tensor:
    """Charbonnier loss, in place of eq. 8's -PSNR.

    Args:
        restored: (B, 3, H, W), target in [0, 1].
        target: the same shape.

    The logarithm of -PSNR weighs a picture by the inverse of its error. Among pictures that are to
    come back untouched it silences all the others (measured: noise 25 gained 0.2 dB in 350 steps).
    """
    return ((restored - target).square() + SHARPNESS**2).sqrt().mean()


def tone_loss(toned: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of 8x8 block means: what tone can change, not the detail."""
    return functional.l1_loss(functional.avg_pool2d(toned, 8), functional.avg_pool2d(target, 8))


def feature_matching(seen: Seen, clean: Quantized) -> Tensor:
    """Eq. 7: cross-entropy of the predicted tokens, and F_a against the clean quantised latent."""
    predicted = functional.cross_entropy(seen.logits.flatten(0, 1), clean.tokens.flatten())
    return predicted + functional.mse_loss(seen.adapted, clean.latent)
