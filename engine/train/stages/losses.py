"""Training objectives (VarFormer, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.networks.layers.quantizer import Quantized
from varfix.engine.networks.varformer_s.prior import PriorFeatures

SHARPNESS = 1e-3
"""The Charbonnier loss is quadratic below this difference."""

DETAIL = 16
"""Side of the blocks whose mean differences count as tone, in pixels."""

COARSE_WEIGHT = 0.3
"""Weight of the whole difference, relative to that of its detail."""


AMPLITUDE_WEIGHT = 0.4
"""Weight of the spectrum's amplitudes, relative to the pixels, for blurred images."""


def reconstruction(restored: Tensor, target: Tensor) -> Tensor:
    """Return the Charbonnier loss of each image, mostly of its detail; replaces -PSNR of eq. 8.

    -PSNR is a logarithm, which weights an image by the inverse of its error. Clean images then
    dominate all others (measured: noise 25 gained 0.2 dB in 350 steps). Remaining haze and
    darkness, in turn, dominate noise; so low frequencies have a low weight.

    Args:
        restored: (B, 3, H, W); H and W are multiples of 16.
        target: The same shape, in [0, 1].

    Returns:
        (B,).
    """
    error = restored - target
    coarse = functional.avg_pool2d(error, DETAIL)
    smooth = functional.interpolate(coarse, scale_factor=float(DETAIL), mode="bilinear")
    return charbonnier(error - smooth) + COARSE_WEIGHT * charbonnier(error)


def charbonnier(error: Tensor) -> Tensor:
    """Return the mean of sqrt(error^2 + SHARPNESS^2) for each of (B, C, H, W), (B,)."""
    return (error.square() + SHARPNESS**2).sqrt().mean((1, 2, 3))


def amplitude_loss(restored: Tensor, target: Tensor) -> Tensor:
    """Return the mean difference of the amplitude spectra for each of (B, C, H, W), (B,).

    A blurred image lacks amplitudes; a loss on pixels alone prefers a mean of all possible sharp
    images.
    """
    predicted, real = (torch.fft.rfft2(each, norm="ortho").abs() for each in (restored, target))
    return (predicted - real).abs().mean((1, 2, 3))


def tone_loss(toned: Tensor, target: Tensor) -> Tensor:
    """Return the mean absolute difference of 8 x 8 block means: tone without detail."""
    return functional.l1_loss(functional.avg_pool2d(toned, 8), functional.avg_pool2d(target, 8))


def feature_matching(features: PriorFeatures, clean: Quantized) -> Tensor:
    """Return eq. 7: cross-entropy of the tokens, plus squared distance of F_a and clean latent."""
    predicted = functional.cross_entropy(features.logits.flatten(0, 1), clean.tokens.flatten())
    return predicted + functional.mse_loss(features.adapted, clean.latent)
