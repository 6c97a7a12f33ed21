"""Rain, snow and haze."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.train.blur import convolve
from varfix.engine.train.draw import integer, log_uniform, normal, smooth_field, uniform

STREAK = 61
"""Side of the longest streak's kernel in pixels."""


def rain(clean: Tensor, rng: torch.Generator) -> Tensor:
    """One to four layers of streaks, each with its own angle, length and density, and a veil."""
    B, _, H, W = clean.shape
    light = clean.new_zeros(B, 1, H, W)
    lean = uniform((B,), -0.7, 0.7, rng)  # Layers of one shower fall about the same way.
    for _ in range(integer(1, 5, rng)):
        length = log_uniform((B,), 6.0, STREAK - 4.0, rng)
        # Share of the picture under streaks; long streaks need fewer drops for the same share.
        cover = log_uniform((B, 1, 1, 1), 0.02, 0.35, rng)
        drops = _drops((B, 1, H, W), cover / length.reshape(B, 1, 1, 1), rng)
        kernels = line_kernels(lean + 0.15 * normal((B,), rng), length, rng)
        strength = uniform((B, 1, 1, 1), 0.1, 0.9, rng)
        light = light + strength * convolve(drops, kernels)
    veil = uniform((B, 1, 1, 1), -0.15, 0.15, rng).clamp_min(0.0)
    hidden = clean * (1.0 - veil) + veil * uniform((B, 1, 1, 1), 0.5, 0.9, rng)
    share = uniform((B, 1, 1, 1), 0.0, 1.0, rng).round()  # added light, or covering light
    return hidden + light * (share + (1.0 - share) * (1.0 - hidden))


def snow(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Flakes of several sizes, blurred along the wind, over a light veil."""
    B, _, H, W = clean.shape
    cover = clean.new_zeros(B, 1, H, W)
    wind = uniform((B,), -1.2, 1.2, rng)
    for size in (1, 2, 4, 7):
        density = log_uniform((B, 1, 1, 1), 2e-4, 6e-3, rng) / size
        small = (-(-H // size) + 1, -(-W // size) + 1)
        flakes = _drops((B, 1, *small), density * size**2 / 2.0, rng)
        flakes = functional.interpolate(flakes, scale_factor=float(size), mode="bicubic")
        top, left = integer(0, size, rng), integer(0, size, rng)
        flakes = flakes[..., top : top + H, left : left + W].clamp(0.0, 1.0)
        kernels = line_kernels(wind, uniform((B,), 1.0, 3.0 + 1.5 * size, rng), rng)
        cover = torch.maximum(cover, convolve(flakes, kernels) * uniform((B, 1, 1, 1), 0.5, 1, rng))
    veil = uniform((B, 1, 1, 1), 0.0, 0.2, rng)
    cover = (cover + veil).clamp(0.0, 0.97)
    white = uniform((B, 1, 1, 1), 0.8, 1.0, rng)
    return clean * (1.0 - cover) + white * cover


def _drops(shape: tuple[int, ...], density: Tensor, rng: torch.Generator) -> Tensor:
    """Isolated points of random brightness; `density` (B, 1, 1, 1) of the pixels carry one."""
    present = uniform(shape, 0.0, 1.0, rng) < density
    return present * uniform(shape, 0.3, 1.0, rng)


def line_kernels(angle: Tensor, length: Tensor, rng: torch.Generator) -> Tensor:
    """Soft strokes (B, STREAK, STREAK) whose brightest pixel is one.

    Args:
        angle: (B,) radians from the vertical.
        length: (B,) pixels.
        rng: source of the strokes' widths, 0.4 to 1.3 pixels.
    """
    B = len(angle)
    axis = torch.arange(STREAK, device=angle.device, dtype=angle.dtype) - STREAK // 2
    y, x = axis[None, :, None], axis[None, None, :]
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    along, across = y * cos + x * sin, x * cos - y * sin
    width = uniform((B, 1, 1), 0.4, 1.3, rng)
    body = torch.sigmoid((length[:, None, None] / 2.0 - along.abs()) * 1.5)
    stroke = body * torch.exp(-0.5 * (across / width).square())
    return stroke / stroke.amax((1, 2), keepdim=True)


def haze(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Scattering model `J t + A (1 - t)`, `t = exp(-beta depth)`, beta 0.3 to 2.4, A 0.65 to 1."""
    B = len(clean)
    depth = random_depth(clean, rng)
    beta = uniform((B, 1, 1, 1), 0.3, 2.4, rng)
    tint = 1.0 + 0.03 * normal((B, 3, 1, 1), rng)
    airlight = (uniform((B, 1, 1, 1), 0.65, 1.0, rng) * tint).clamp(0.5, 1.0)
    transmission = (-beta * depth).exp()
    return clean * transmission + airlight * (1.0 - transmission)


def random_depth(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Plausible depth (B, 1, H, W) in [0.1, 1.4]: smooth bumps, receding ground, object edges.

    Objects are had from the picture itself: a random wave over its smoothed colours is constant
    on a surface and jumps where surfaces meet, as depth does.
    """
    B, _, H, W = clean.shape
    smooth = functional.avg_pool2d(clean, 9, stride=1, padding=4, count_include_pad=False)
    direction = normal((B, 3, 1, 1), rng) * 2.5
    phase = uniform((B, 1, 1, 1), 0.0, 2.0 * math.pi, rng)
    surfaces = 0.5 + 0.5 * ((smooth * direction).sum(1, keepdim=True) + phase).sin()
    ground = torch.linspace(1.0, 0.0, H, device=clean.device).reshape(1, 1, H, 1)
    bumps = smooth_field(B, (H, W), 3, rng)
    parts = torch.stack([surfaces, ground.expand(B, 1, H, W), bumps], 0)
    shares = uniform((3, B, 1, 1, 1), 0.0, 1.0, rng)
    depth = (parts * shares).sum(0) / shares.sum(0)
    return 0.1 + 1.3 * depth * uniform((B, 1, 1, 1), 0.5, 1.0, rng)
