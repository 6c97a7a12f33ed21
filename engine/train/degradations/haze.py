"""Haze, and the depth maps for it."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.train.degradations.random_draws import log_uniform, normal, smooth_field, uniform

REDUCED = 4
"""Reduction of the size at which depth is drawn; it is then enlarged along the image's edges."""

REACH = 4
"""Radius of the guided filter at the reduced size, in pixels."""

SHARPNESS = 2e-3
"""Variance of brightness above which the guided filter keeps an edge."""


def haze(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Apply the scattering model `J t + A (1 - t)`, `t = exp(-beta depth)`; A is mostly white.

    In SOTS indoor, A is 1.00, and the median of t is 0.64 (0.42 to 0.80 within an image).
    """
    B = len(clean)
    beta = log_uniform((B, 1, 1, 1), 0.4, 2.0, rng)
    tint = 1.0 + 0.03 * normal((B, 3, 1, 1), rng) * uniform((B, 1, 1, 1), 0.0, 1.0, rng).round()
    brightness = 1.0 - 0.28 * uniform((B, 1, 1, 1), 0.0, 1.0, rng).square()
    airlight = (brightness * tint).clamp(0.5, 1.0)
    transmission = (-beta * random_depth(clean, rng)).exp()
    return clean * transmission + airlight * (1.0 - transmission)


def random_depth(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Return plausible depth (B, 1, H, W) in [0.05, 1.4]: a room or ground, with objects.

    Objects are derived from the image: a random sine of its smoothed colors is constant on a
    surface and changes between surfaces, as depth does. A guided filter aligns the map with the
    image's edges.
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
    depth = _stretch((parts * shares).sum(0) / shares.sum(0), rng)
    depth = follow_edges(depth, small.mean(1, keepdim=True), clean.mean(1, keepdim=True))
    near, far = uniform((2, B, 1, 1, 1), 0.0, 1.0, rng)
    return (0.05 + 0.3 * near + (0.5 + 0.6 * far) * depth).clamp(0.05, 1.4)


def _stretch(depth: Tensor, rng: torch.Generator) -> Tensor:
    """Stretch depth (B, 1, h, w) toward the range [0, 1].

    A mean of several maps has low contrast: t had a range of 0.16 within an image, against 0.33 in
    real rooms.
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
    """Return depth that increases from the bottom to a random horizon."""
    rows = torch.linspace(0.0, 1.0, size[0], device=rng.device).reshape(1, 1, -1, 1)
    horizon = uniform((batch, 1, 1, 1), -0.3, 0.6, rng)
    down = ((rows - horizon) / (1.0 - horizon)).clamp(0.0, 1.0)
    return (1.0 - down).pow(uniform((batch, 1, 1, 1), 0.7, 2.0, rng)).expand(batch, 1, *size)


def _room(batch: int, size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Return the depth of walls, floor and ceiling around a random vanishing point."""
    rows = torch.linspace(0.0, 1.0, size[0], device=rng.device).reshape(1, 1, -1, 1)
    columns = torch.linspace(0.0, 1.0, size[1], device=rng.device).reshape(1, 1, 1, -1)
    y, x = uniform((2, batch, 1, 1, 1), 0.1, 0.9, rng)
    reach = torch.maximum((rows - y).abs(), (columns - x).abs())
    back = uniform((batch, 1, 1, 1), 0.1, 0.4, rng)  # the back wall
    return back / reach.clamp_min(back)


def follow_edges(depth: Tensor, small: Tensor, guide: Tensor) -> Tensor:
    """Enlarge maps along the edges of an image: the fast guided filter (He and Sun 2015).

    Args:
        depth: (B, 1, h, w).
        small: (B, 1, h, w), the guide at the size of the maps.
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
