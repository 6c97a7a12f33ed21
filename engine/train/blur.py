"""Motion blur: straight motion and camera shake along random paths."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.train.draw import normal, uniform

KERNEL = 31
"""Side of the largest kernel in pixels."""

STEPS = 96
"""Points along a path."""


def motion_blur(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Blur each picture of (B, 3, H, W) by its own path, straight or shaken, of 3 to 31 pixels."""
    return convolve(clean, path_kernels(len(clean), rng))


def path_kernels(batch: int, rng: torch.Generator) -> Tensor:
    """Kernels (batch, KERNEL, KERNEL) that sum to one: how long the light stayed at each place."""
    turning = uniform((batch, 1), 0.0, 0.35, rng) * (uniform((batch, 1), 0.0, 1.0, rng) < 0.7)
    heading = uniform((batch, 1), 0.0, 2.0 * math.pi, rng)
    angles = heading + (turning * normal((batch, STEPS), rng)).cumsum(1)
    speed = uniform((batch, STEPS), 0.2, 1.0, rng)
    path = torch.stack([angles.sin() * speed, angles.cos() * speed], -1).cumsum(1)
    path = path - path.mean(1, keepdim=True)
    reach = path.abs().amax((1, 2), keepdim=True).clamp_min(1e-6)
    extent = uniform((batch, 1, 1), 1.0, (KERNEL - 3) / 2.0, rng)
    return _rasterise(path / reach * extent)


def _rasterise(path: Tensor) -> Tensor:
    """Spread points (B, STEPS, 2) in pixels from the centre over their four neighbours."""
    places = torch.arange(KERNEL, device=path.device) - KERNEL // 2
    weights = (1.0 - (path[..., None] - places).abs()).clamp_min(0.0)  # (B, STEPS, 2, KERNEL)
    kernels = torch.einsum("bsi,bsj->bij", weights[:, :, 0], weights[:, :, 1])
    return kernels / kernels.sum((1, 2), keepdim=True)


def convolve(pictures: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each of (B, C, H, W) with its own (B, k, k) kernel; borders mirrored."""
    B, C, H, W = pictures.shape
    half = kernels.shape[-1] // 2
    padded = functional.pad(pictures, (half, half, half, half), mode="reflect")
    size = (H + 2 * half, W + 2 * half)
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernels, s=size)[:, None]
    full = torch.fft.irfft2(spectrum, s=size)
    return full[..., 2 * half :, 2 * half :].reshape(B, C, H, W)
