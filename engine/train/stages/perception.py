"""Perceptual losses: structural similarity, and distance of features."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.networks.layers.vqvae import VqvaeEncoder

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def structural_similarity(first: Tensor, second: Tensor) -> Tensor:
    """Return the mean SSIM of images (B, C, H, W) in [0, 1], as `engine/evaluation/metrics.py`."""
    with torch.autocast(first.device.type, enabled=False):
        a, b = first.float(), second.float()
        mean_a, mean_b = gaussian_mean(a), gaussian_mean(b)
        var_a = gaussian_mean(a.square()) - mean_a.square()
        var_b = gaussian_mean(b.square()) - mean_b.square()
        shared = gaussian_mean(a * b) - mean_a * mean_b
        similarity = (2.0 * mean_a * mean_b + C1) * (2.0 * shared + C2)
        scale = (mean_a.square() + mean_b.square() + C1) * (var_a + var_b + C2)
        return (similarity / scale).mean()


def gaussian_mean(x: Tensor) -> Tensor:
    """Return means under a Gaussian window, (B, C, H - 10, W - 10)."""
    axis = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    kernel = torch.exp(-0.5 * (axis / SIGMA).square())
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, 1, WINDOW)
    rows = functional.conv2d(x, kernel, groups=x.shape[1])
    return functional.conv2d(rows, kernel.transpose(2, 3), groups=x.shape[1])


def perceptual_distance(encoder: VqvaeEncoder, generated: Tensor, real: Tensor) -> Tensor:
    """Return the feature distance of images (B, 3, H, W) in [-1, 1] in a frozen encoder.

    The papers use features of VGG. The encoder of the VQ-VAE replaces it, so that nothing has to be
    downloaded. Levels are compared as in LPIPS, by the distance of normalized channel vectors.
    """
    with torch.no_grad():
        wanted = encoder.levels(real)
    pairs = zip(encoder.levels(generated), wanted, strict=True)
    distances = [
        (functional.normalize(ours.float()) - functional.normalize(theirs.float()))
        .square()
        .sum(1)
        .mean()
        for ours, theirs in pairs
    ]
    return torch.stack(distances).mean()
