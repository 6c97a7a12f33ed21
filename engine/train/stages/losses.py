"""Training objectives (VarFormer, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.networks.layers.quantizer import Quantized
from varfix.engine.networks.varformer_s.prior import Seen

SHARPNESS = 1e-3
"""Below this difference the Charbonnier loss is quadratic."""

DETAIL = 16
"""Differences of block means of this side are the tone path's business."""

COARSE_WEIGHT = 0.3
"""Weight of the whole difference beside its detail."""


AMPLITUDE_WEIGHT = 0.4
"""Weight of the spectrum's amplitudes beside the pixels, for blurred images."""


def reconstruction(restored: Tensor, target: Tensor) -> Tensor:
    """Charbonnier loss of each image, in place of eq. 8's -PSNR, mostly on detail.

    Args:
        restored: (B, 3, H, W), target in [0, 1], H and W multiples of 16.
        target: the same shape.

    Returns:
        (B,).

    The logarithm of -PSNR weighs an image by the inverse of its error. Among images that are to
    come back untouched it silences all the others (measured: noise 25 gained 0.2 dB in 350 steps).
    What is left of haze and darkness, in turn, drowns noise: so low frequencies count little here.
    """
    error = restored - target
    coarse = functional.avg_pool2d(error, DETAIL)
    smooth = functional.interpolate(coarse, scale_factor=float(DETAIL), mode="bilinear")
    return charbonnier(error - smooth) + COARSE_WEIGHT * charbonnier(error)


def charbonnier(error: Tensor) -> Tensor:
    """Mean of sqrt(error^2 + SHARPNESS^2) of each of (B, C, H, W), (B,)."""
    return (error.square() + SHARPNESS**2).sqrt().mean((1, 2, 3))


def amplitude_loss(restored: Tensor, target: Tensor) -> Tensor:
    """Mean difference of the spectra's amplitudes of each of (B, C, H, W), (B,).

    A blurred image lacks amplitudes; a loss on pixels alone prefers a mean of all sharp images.
    """
    drawn, real = (torch.fft.rfft2(each, norm="ortho").abs() for each in (restored, target))
    return (drawn - real).abs().mean((1, 2, 3))


def tone_loss(toned: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of 8x8 block means: what tone can change, not the detail."""
    return functional.l1_loss(functional.avg_pool2d(toned, 8), functional.avg_pool2d(target, 8))


def feature_matching(seen: Seen, clean: Quantized) -> Tensor:
    """Eq. 7: cross-entropy of the predicted tokens, and F_a against the clean quantized latent."""
    predicted = functional.cross_entropy(seen.logits.flatten(0, 1), clean.tokens.flatten())
    return predicted + functional.mse_loss(seen.adapted, clean.latent)
