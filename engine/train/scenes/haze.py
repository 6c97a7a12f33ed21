"""Haze for the judge: thinner and thicker, of more colors and shapes than a restorer needs."""

from __future__ import annotations

import torch
from torch import Tensor

from varfix.engine.train.degradations.haze import random_depth
from varfix.engine.train.degradations.random_draws import normal, smooth_field, uniform

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
