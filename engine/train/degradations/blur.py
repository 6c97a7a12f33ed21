"""Blur: straight motion, camera shake along random paths, and defocus."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.train.degradations.exposure import to_encoded, to_linear
from varfix.engine.train.degradations.random_draws import log_uniform, normal, uniform

KERNEL = 31
"""Side of the largest kernel in pixels."""

LINEAR = 0.4
"""Share of images that are blurred as light, where highlights draw bright paths. Test sets mostly
blur file values."""

DEFOCUSED = 0.35
"""Share of images that are out of focus and not moved."""

SLIGHT = 5.0
"""Greatest distance of a path from its center in pixels, for slight blur."""

WIDEST = (KERNEL - 3) / 2.0
"""Greatest distance of a path from its center, in pixels."""

STEPS = 96
"""Points of a path."""


def motion_blur(clean: Tensor, rng: torch.Generator, widest: float = WIDEST) -> Tensor:
    """Blur each image of (B, 3, H, W) along its own path, straight or shaken.

    Its points are up to 1 to `widest` pixels from their center. In two of five images the camera
    also rolls: the path changes across the image, to one that is rotated and shorter.
    """
    B, _, H, W = clean.shape
    path = random_paths(B, rng, widest)
    rolled = (uniform((B, 1, 1), 0.0, 1.0, rng) < 0.4).float()
    shorter = 1.0 - rolled * uniform((B, 1, 1), 0.0, 0.5, rng)
    other = _rotate(path, rolled[:, 0] * 0.5 * normal((B, 1), rng)) * shorter
    angle = uniform((B, 1, 1, 1), 0.0, 2.0 * math.pi, rng)
    rows = torch.linspace(-1.0, 1.0, H, device=clean.device).reshape(1, 1, H, 1)
    columns = torch.linspace(-1.0, 1.0, W, device=clean.device).reshape(1, 1, 1, W)
    side = (0.5 + 0.5 * (rows * angle.sin() + columns * angle.cos())).clamp(0.0, 1.0)
    first, second = (convolve(clean, _rasterize(end)) for end in (path, other))
    return torch.lerp(first, second, side)


def slight_blur(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Blur (B, 3, H, W) as a camera does: moved or out of focus a little, and with read noise.

    Noise is what limits the sharpening of an image: 0.3 to 3 code values of it.
    """
    shape = (len(clean), 1, 1, 1)
    in_light = uniform(shape, 0.0, 1.0, rng) < LINEAR
    sharp = torch.where(in_light, to_linear(clean), clean)
    defocused = uniform(shape, 0.0, 1.0, rng) < DEFOCUSED
    blurred = torch.where(
        defocused, convolve(sharp, discs(len(clean), rng)), motion_blur(sharp, rng)
    )
    blurred = torch.where(in_light, to_encoded(blurred), blurred)
    sigma = log_uniform(shape, 0.3, 3.0, rng) / 255.0
    return blurred + sigma * normal((*clean.shape,), rng)


def discs(batch: int, rng: torch.Generator) -> Tensor:
    """Return kernels (batch, KERNEL, KERNEL) with sum 1: discs of a radius of 0.5 to 3 pixels."""
    places = torch.arange(KERNEL, device=rng.device) - KERNEL // 2
    distance = (places[:, None].square() + places.square()).sqrt()
    radius = log_uniform((batch, 1, 1), 0.5, 3.0, rng)
    kernels = (radius + 0.5 - distance).clamp(0.0, 1.0)
    return kernels / kernels.sum((1, 2), keepdim=True)


def random_paths(batch: int, rng: torch.Generator, widest: float = WIDEST) -> Tensor:
    """Return paths (batch, STEPS, 2) of a point of light, in pixels around their center."""
    turning = uniform((batch, 1), 0.0, 0.35, rng) * (uniform((batch, 1), 0.0, 1.0, rng) < 0.7)
    heading = uniform((batch, 1), 0.0, 2.0 * math.pi, rng)
    angles = heading + (turning * normal((batch, STEPS), rng)).cumsum(1)
    speed = uniform((batch, STEPS), 0.2, 1.0, rng)
    path = torch.stack([angles.sin() * speed, angles.cos() * speed], -1).cumsum(1)
    path = path - path.mean(1, keepdim=True)
    reach = path.norm(dim=2).amax(1)[:, None, None].clamp_min(1e-6)
    extent = uniform((batch, 1, 1), 1.0, widest, rng)
    return path / reach * extent


def path_kernels(batch: int, rng: torch.Generator) -> Tensor:
    """Return kernels (batch, KERNEL, KERNEL) with sum 1: the time of the light at each place."""
    return _rasterize(random_paths(batch, rng))


def _rotate(path: Tensor, angle: Tensor) -> Tensor:
    """Rotate paths (B, STEPS, 2) by angles (B, 1)."""
    y, x = path[..., 0], path[..., 1]
    return torch.stack([y * angle.cos() - x * angle.sin(), y * angle.sin() + x * angle.cos()], -1)


def _rasterize(path: Tensor) -> Tensor:
    """Distribute points (B, STEPS, 2), in pixels from the center, to their four neighbors."""
    places = torch.arange(KERNEL, device=path.device) - KERNEL // 2
    weights = (1.0 - (path[..., None] - places).abs()).clamp_min(0.0)  # (B, STEPS, 2, KERNEL)
    kernels = torch.einsum("bsi,bsj->bij", weights[:, :, 0], weights[:, :, 1])
    return kernels / kernels.sum((1, 2), keepdim=True)


def convolve(images: Tensor, kernels: Tensor) -> Tensor:
    """Convolve each of (B, C, H, W) with its own kernel (B, k, k); borders are mirrored."""
    B, C, H, W = images.shape
    half = kernels.shape[-1] // 2
    padded = functional.pad(images, (half, half, half, half), mode="reflect")
    size = (H + 2 * half, W + 2 * half)
    spectrum = torch.fft.rfft2(padded) * torch.fft.rfft2(kernels, s=size)[:, None]
    full = torch.fft.irfft2(spectrum, s=size)
    return full[..., 2 * half :, 2 * half :].reshape(B, C, H, W)
