"""Motion blur: straight motion and camera shake along random paths."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.train.degradations.random_draws import normal, uniform

KERNEL = 31
"""Side of the largest kernel in pixels."""

STEPS = 96
"""Points along a path."""


def motion_blur(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Blur each image of (B, 3, H, W) by its own path, straight or shaken, of 3 to 31 pixels.

    Two images in five were taken by a camera that also rolled: their blur changes from one side
    to the other, from one path to the same one turned and shortened.
    """
    B, _, H, W = clean.shape
    path = random_paths(B, rng)
    rolled = (uniform((B, 1, 1), 0.0, 1.0, rng) < 0.4).float()
    shorter = 1.0 - rolled * uniform((B, 1, 1), 0.0, 0.5, rng)
    other = _turned(path, rolled[:, 0] * 0.5 * normal((B, 1), rng)) * shorter
    angle = uniform((B, 1, 1, 1), 0.0, 2.0 * math.pi, rng)
    rows = torch.linspace(-1.0, 1.0, H, device=clean.device).reshape(1, 1, H, 1)
    columns = torch.linspace(-1.0, 1.0, W, device=clean.device).reshape(1, 1, 1, W)
    side = (0.5 + 0.5 * (rows * angle.sin() + columns * angle.cos())).clamp(0.0, 1.0)
    first, second = (convolve(clean, _rasterize(end)) for end in (path, other))
    return torch.lerp(first, second, side)


def random_paths(batch: int, rng: torch.Generator) -> Tensor:
    """Paths (batch, STEPS, 2) of a point of light, in pixels around their middle."""
    turning = uniform((batch, 1), 0.0, 0.35, rng) * (uniform((batch, 1), 0.0, 1.0, rng) < 0.7)
    heading = uniform((batch, 1), 0.0, 2.0 * math.pi, rng)
    angles = heading + (turning * normal((batch, STEPS), rng)).cumsum(1)
    speed = uniform((batch, STEPS), 0.2, 1.0, rng)
    path = torch.stack([angles.sin() * speed, angles.cos() * speed], -1).cumsum(1)
    path = path - path.mean(1, keepdim=True)
    reach = path.norm(dim=2).amax(1)[:, None, None].clamp_min(1e-6)
    extent = uniform((batch, 1, 1), 1.0, (KERNEL - 3) / 2.0, rng)
    return path / reach * extent


def path_kernels(batch: int, rng: torch.Generator) -> Tensor:
    """Kernels (batch, KERNEL, KERNEL) that sum to one: how long the light stayed at each place."""
    return _rasterize(random_paths(batch, rng))


def _turned(path: Tensor, angle: Tensor) -> Tensor:
    """Paths (B, STEPS, 2) turned by angles (B, 1)."""
    y, x = path[..., 0], path[..., 1]
    return torch.stack([y * angle.cos() - x * angle.sin(), y * angle.sin() + x * angle.cos()], -1)


def _rasterize(path: Tensor) -> Tensor:
    """Spread points (B, STEPS, 2) in pixels from the center over their four neighbors."""
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
