"""Losses that look at more than single pixels: structure, and what an encoder sees."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.networks.layers.vqvae import VqvaeEncoder

WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


def structure(first: Tensor, second: Tensor) -> Tensor:
    """Mean SSIM of images (B, C, H, W) in [0, 1], as in `engine/evaluation/metrics.py`."""
    with torch.autocast(first.device.type, enabled=False):
        a, b = first.float(), second.float()
        mean_a, mean_b = blurred(a), blurred(b)
        var_a = blurred(a.square()) - mean_a.square()
        var_b = blurred(b.square()) - mean_b.square()
        shared = blurred(a * b) - mean_a * mean_b
        likeness = (2.0 * mean_a * mean_b + C1) * (2.0 * shared + C2)
        scale = (mean_a.square() + mean_b.square() + C1) * (var_a + var_b + C2)
        return (likeness / scale).mean()


def blurred(x: Tensor) -> Tensor:
    """Means under a Gaussian window, (B, C, H - 10, W - 10)."""
    axis = torch.arange(WINDOW, device=x.device, dtype=x.dtype) - WINDOW // 2
    taps = torch.exp(-0.5 * (axis / SIGMA).square())
    taps = (taps / taps.sum()).expand(x.shape[1], 1, 1, WINDOW)
    rows = functional.conv2d(x, taps, groups=x.shape[1])
    return functional.conv2d(rows, taps.transpose(2, 3), groups=x.shape[1])


def seen_difference(encoder: VqvaeEncoder, drawn: Tensor, real: Tensor) -> Tensor:
    """How differently a frozen encoder sees two images (B, 3, H, W) in [-1, 1].

    The papers compare VGG features. Nothing has to be downloaded for this: the VQ-VAE's encoder
    has learned what matters for drawing an image. Its levels are compared as LPIPS compares VGG's,
    by the distance of channel vectors of unit length.
    """
    with torch.no_grad():
        wanted = encoder.levels(real)
    pairs = zip(encoder.levels(drawn), wanted, strict=True)
    distances = [
        (functional.normalize(ours.float()) - functional.normalize(theirs.float()))
        .square()
        .sum(1)
        .mean()
        for ours, theirs in pairs
    ]
    return torch.stack(distances).mean()
