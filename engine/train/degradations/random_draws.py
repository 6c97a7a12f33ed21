"""Random values for whole batches, from explicit generators, so that runs can be repeated."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> Tensor:
    """Return uniform values in [low, high)."""
    return torch.rand(shape, generator=rng, device=rng.device) * (high - low) + low


def log_uniform(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> Tensor:
    """Return values in [low, high) whose logarithm is uniform."""
    return uniform(shape, math.log(low), math.log(high), rng).exp()


def normal(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Return standard normal values."""
    return torch.randn(shape, generator=rng, device=rng.device)


def smooth_field(batch: int, size: tuple[int, int], cells: int, rng: torch.Generator) -> Tensor:
    """Return smooth random maps (batch, 1, H, W) in [0, 1] with about `cells` maxima per side."""
    seeds = uniform((batch, 1, cells + 2, cells + 2), 0.0, 1.0, rng)
    field = functional.interpolate(seeds, size=size, mode="bicubic", align_corners=True)
    low, high = field.amin((2, 3), keepdim=True), field.amax((2, 3), keepdim=True)
    return (field - low) / (high - low).clamp_min(1e-6)


def integer(low: int, high: int, rng: torch.Generator) -> int:
    """Return an integer in [low, high)."""
    return int(torch.randint(low, high, (), generator=rng, device=rng.device))


def chance(probability: float, rng: torch.Generator) -> bool:
    """Return True with the given probability."""
    return bool(torch.rand((), generator=rng, device=rng.device) < probability)
