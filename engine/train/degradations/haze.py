"""Haze, and the depth that it needs."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.train.degradations.random_draws import normal, smooth_field, uniform

REDUCED = 4
"""Depth is made at a quarter of the side and follows the image's edges when enlarged."""

REACH = 4
"""Radius of the guided filter at that size."""

SHARPNESS = 2e-3
"""Variance of brightness from which on the guided filter sees an edge."""

WHITE = 0.7
"""Share of images whose airlight is nearly white."""

PHYSICAL = 0.25
"""Share of images whose light is added as light, not as file values."""

SMOKY = 0.12
"""Share of images whose haze comes in drifts."""


def haze(clean: Tensor, rng: torch.Generator, depth: Tensor | None = None) -> Tensor:
    """Scattering model `J t + A (1 - t)`, `t = exp(-beta depth)`, from thin to thick.

    Where the middle of the image lies, 35 to 95 % of the light come through. Most airlight is
    nearly white, as in SOTS indoor (1.00 in the median); the rest is as gray, warm or blue as skies
    and smoke are, and no darker than what is bright in the image. Haze adds light, and so do some
    of the images; data sets mostly add file values.

    Args:
        clean: (B, 3, H, W) in [0, 1].
        rng: decides on all of it.
        depth: (B, 1, H, W) of any unit, where it is known; None to make one up.
    """
    shape = (len(clean), 1, 1, 1)
    depth = random_depth(clean, rng) if depth is None else depth
    middle = depth.flatten(1).median(1).values.reshape(shape).clamp_min(1e-3)
    optical = -uniform(shape, 0.35, 0.95, rng).log() * (depth / middle).clamp(0.0, 4.0)
    smoky = (uniform(shape, 0.0, 1.0, rng) < SMOKY).float()
    drift = smooth_field(len(clean), (clean.shape[2], clean.shape[3]), 3, rng)
    through = (-optical * (1.0 - smoky * (1.0 - 1.6 * drift))).exp()
    airlight = _airlight(clean, rng)
    mixed = clean * through + airlight * (1.0 - through)
    linear = (clean.clamp_min(0.0) ** 2.2 * through + airlight**2.2 * (1.0 - through)) ** (1 / 2.2)
    physical = (uniform(shape, 0.0, 1.0, rng) < PHYSICAL).float()
    return torch.lerp(mixed, linear, physical)


def _airlight(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Color (B, 3, 1, 1) of the light that haze scatters."""
    shape = (len(clean), 1, 1, 1)
    white = (uniform(shape, 0.0, 1.0, rng) < WHITE).float()
    brightness = torch.lerp(uniform(shape, 0.66, 0.98, rng), uniform(shape, 0.92, 1.02, rng), white)
    bright = clean.mean(1).flatten(1).quantile(0.8, 1).reshape(shape)
    spread = torch.lerp(uniform(shape, 0.0, 0.06, rng), uniform(shape, 0.0, 0.012, rng), white)
    warm = normal(shape, rng) * spread * clean.new_tensor([1.0, 0.1, -1.1]).reshape(1, 3, 1, 1)
    tint = warm + 0.3 * spread * normal((len(clean), 3, 1, 1), rng)
    return (torch.maximum(brightness, 0.9 * bright) + tint).clamp(0.4, 1.0)


def random_depth(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Plausible depth (B, 1, H, W) in [0.05, 1.4]: a room or a receding ground, objects in it.

    Objects are had from the image itself: a random wave over its smoothed colors is constant
    on a surface and jumps where surfaces meet, as depth does. A guided filter lets all of it follow
    the image's edges.
    """
    B = len(clean)
    small = functional.avg_pool2d(clean, REDUCED, ceil_mode=True)
    size = (small.shape[-2], small.shape[-1])
    parts = torch.stack(
        [
            _surfaces(small, rng),
            _ground(B, size, rng),
            _room(B, size, rng),
            smooth_field(B, size, 2, rng),
        ]
    )
    limits = clean.new_tensor([0.6, 1.0, 1.0, 0.35]).reshape(4, 1, 1, 1, 1)
    shares = uniform((4, B, 1, 1, 1), 0.0, 1.0, rng).square() * limits + 1e-3
    depth = _stretched((parts * shares).sum(0) / shares.sum(0), rng)
    depth = follow_edges(depth, small.mean(1, keepdim=True), clean.mean(1, keepdim=True))
    near, far = uniform((2, B, 1, 1, 1), 0.0, 1.0, rng)
    return (0.05 + 0.3 * near + (0.5 + 0.6 * far) * depth).clamp(0.05, 1.4)


def _stretched(depth: Tensor, rng: torch.Generator) -> Tensor:
    """Bring depth (B, 1, h, w) nearer to the whole of [0, 1].

    A mean of several has little contrast: t then spanned 0.16 within an image, and 0.33 in rooms.
    """
    least, greatest = depth.amin((2, 3), keepdim=True), depth.amax((2, 3), keepdim=True)
    whole = (depth - least) / (greatest - least).clamp_min(0.1)
    return torch.lerp(depth, whole, uniform((len(depth), 1, 1, 1), 0.3, 1.0, rng))


def _surfaces(small: Tensor, rng: torch.Generator) -> Tensor:
    smooth = functional.avg_pool2d(small, 5, stride=1, padding=2, count_include_pad=False)
    direction = normal((len(small), 3, 1, 1), rng) * 2.5
    phase = uniform((len(small), 1, 1, 1), 0.0, 2.0 * math.pi, rng)
    return 0.5 + 0.5 * ((smooth * direction).sum(1, keepdim=True) + phase).sin()


def _ground(batch: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Near below, far from a random horizon on upwards."""
    rows = torch.linspace(0.0, 1.0, size[0], device=rng.device).reshape(1, 1, -1, 1)
    horizon = uniform((batch, 1, 1, 1), -0.3, 0.6, rng)
    down = ((rows - horizon) / (1.0 - horizon)).clamp(0.0, 1.0)
    return (1.0 - down).pow(uniform((batch, 1, 1, 1), 0.7, 2.0, rng)).expand(batch, 1, *size)


def _room(batch: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Walls, floor and ceiling that recede toward a random point."""
    rows = torch.linspace(0.0, 1.0, size[0], device=rng.device).reshape(1, 1, -1, 1)
    columns = torch.linspace(0.0, 1.0, size[1], device=rng.device).reshape(1, 1, 1, -1)
    y, x = uniform((2, batch, 1, 1, 1), 0.1, 0.9, rng)
    reach = torch.maximum((rows - y).abs(), (columns - x).abs())
    back = uniform((batch, 1, 1, 1), 0.1, 0.4, rng)  # the wall at the end
    return back / reach.clamp_min(back)


def follow_edges(depth: Tensor, small: Tensor, guide: Tensor) -> Tensor:
    """Enlarge maps along the edges of an image: the fast guided filter (He and Sun 2015).

    Args:
        depth: (B, 1, h, w).
        small: (B, 1, h, w), the guide reduced to the maps' size.
        guide: (B, 1, H, W), the brightness of the image.
    """
    mean, mean_depth = _box(small), _box(depth)
    slope = (_box(small * depth) - mean * mean_depth) / (
        _box(small.square()) - mean.square() + SHARPNESS
    )
    lines = torch.cat([_box(slope), _box(mean_depth - slope * mean)], 1)
    lines = functional.interpolate(lines, size=guide.shape[-2:], mode="bilinear")
    return (lines[:, :1] * guide + lines[:, 1:]).clamp(0.0, 1.0)


def _box(maps: Tensor) -> Tensor:
    side = 2 * REACH + 1
    return functional.avg_pool2d(maps, side, stride=1, padding=REACH, count_include_pad=False)
