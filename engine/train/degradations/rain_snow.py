"""Rain and snow."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.train.degradations.blur import convolve
from varfix.engine.train.degradations.random_draws import (
    integer,
    log_uniform,
    normal,
    smooth_field,
    uniform,
)

STREAK = 81
"""Side of the longest streak's kernel in pixels."""


@dataclass(frozen=True)
class Shower:
    """A kind of rain: least and greatest values that are drawn from for each image.

    Attributes:
        cover: how many streaks of a layer lie over a pixel on average.
        strength: light that the brightest streak adds.
        width: standard deviation across a streak, in pixels.
        length: of a streak, in pixels.
        lean: largest angle from the vertical, in radians.
        patchy: how much of the rain comes in patches, 0 to 1.
        veil: share of gray light that far drops put over the image.
        share: how often this kind is drawn.
    """

    cover: tuple[float, float]
    strength: tuple[float, float]
    width: tuple[float, float]
    length: tuple[float, float]
    lean: tuple[float, float]
    patchy: tuple[float, float]
    veil: tuple[float, float]
    share: tuple[float]


SHOWERS = (
    # Dense, long, thin, near the vertical, as in Rain100H: two thirds of the image under streaks.
    Shower((0.7, 2.4), (0.15, 0.45), (0.4, 0.8), (24, 80), (0, 0.4), (0, 0.3), (0, 1e-3), (0.4,)),
    # Soft and faint, in patches, as in Rain1400: an added brightness of 0.05 on average.
    Shower((0.2, 1.6), (0.06, 0.22), (0.6, 1.4), (14, 70), (0, 0.7), (0.2, 1), (0, 0.12), (0.35,)),
    # Single bright streaks, as a flash or a lamp shows them.
    Shower((0.03, 0.15), (0.2, 0.7), (0.4, 1.1), (6, 60), (0, 0.8), (0, 1), (0, 0.1), (0.15,)),
    # A downpour: short fine streaks, the far ones a gray veil (the HeavyRain images).
    Shower((0.4, 1.5), (0.1, 0.3), (0.6, 1.1), (5, 16), (0, 0.6), (0, 0.3), (0.2, 0.7), (0.1,)),
)


def rain(clean: Tensor, rng: torch.Generator) -> Tensor:
    """One to three layers of streaks of one of `SHOWERS`; they add gray light, as files show."""
    B, _, H, W = clean.shape
    shower = _showers(B, rng)
    light = clean.new_zeros(B, 1, H, W)
    lean = shower["lean"] * uniform((B,), -1.0, 1.0, rng)
    layers = integer(1, 4, rng)
    for _ in range(layers):
        length = shower["length"] * uniform((B,), 0.7, 1.05, rng)
        # A drop's streak covers its length times the width of its bell.
        area = (length * shower["width"] * 2.5).reshape(B, 1, 1, 1)
        drops = _drops((B, 1, H, W), shower["cover"].reshape(B, 1, 1, 1) / layers / area, rng)
        kernels = line_kernels(lean + 0.06 * normal((B,), rng), length, shower["width"])
        light = light + convolve(drops, kernels).clamp_min(0.0)
    light = light * shower["strength"].reshape(B, 1, 1, 1) * _patches((B, H, W), shower, rng)
    veil = shower["veil"].reshape(B, 1, 1, 1) * uniform((B, 1, 1, 1), 0.3, 1.0, rng)
    veil = veil * (0.6 + 0.4 * smooth_field(B, (H, W), 2, rng))
    hidden = clean * (1.0 - veil) + veil * uniform((B, 1, 1, 1), 0.45, 0.85, rng)
    screened = (uniform((B, 1, 1, 1), 0.0, 1.0, rng) < 0.25).float()
    return hidden + light * (1.0 - screened * hidden)


def _showers(batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    """A value (batch,) of every attribute of `Shower`, each image's from one kind."""
    shares = torch.tensor([kind.share[0] for kind in SHOWERS], device=rng.device)
    kinds = torch.multinomial(shares, batch, replacement=True, generator=rng)
    drawn = {}
    for place, name in enumerate(Shower.__dataclass_fields__):
        if name == "share":
            continue
        bounds = torch.tensor([astuple(kind)[place] for kind in SHOWERS], device=rng.device)[kinds]
        low, high = bounds[:, 0], bounds[:, 1]
        where = uniform((batch,), 0.0, 1.0, rng)
        even, factors = low + where * (high - low), low.clamp_min(1e-6) ** (1.0 - where)
        drawn[name] = torch.where(low > 0.0, factors * high**where, even)
    return drawn


def _patches(size: tuple[int, int, int], shower: dict[str, Tensor], rng: torch.Generator) -> Tensor:
    """Where it rains how much: (B, 1, H, W) around one."""
    B, H, W = size
    share = shower["patchy"].reshape(B, 1, 1, 1)
    return 1.0 - share + 2.0 * share * smooth_field(B, (H, W), 3, rng).square()


def snow(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Flakes of several sizes, blurred along the wind, over a veil; large ones are out of focus."""
    B, _, H, W = clean.shape
    cover = clean.new_zeros(B, 1, H, W)
    wind = uniform((B,), -1.2, 1.2, rng)
    speed = log_uniform((B,), 1.0, 6.0, rng)
    for size in (1, 2, 3, 5, 8):
        density = log_uniform((B, 1, 1, 1), 2e-4, 1.2e-2, rng) / size
        small = (-(-H // size) + 1, -(-W // size) + 1)
        flakes = _drops((B, 1, *small), density * size**2 / 2.0, rng)
        flakes = functional.interpolate(flakes, scale_factor=float(size), mode="bicubic")
        top, left = integer(0, size, rng), integer(0, size, rng)
        flakes = flakes[..., top : top + H, left : left + W].clamp(0.0, 1.0)
        width = torch.full((B,), 0.35 + 0.2 * size, device=clean.device)
        kernels = line_kernels(wind, 1.0 + speed * size**0.5, width)
        kernels = kernels / kernels.sum((1, 2), keepdim=True).sqrt()  # motion thins a flake out
        opaque = uniform((B, 1, 1, 1), 0.3, 1.0, rng) / (1.0 + 0.12 * (size - 1))
        cover = torch.maximum(cover, convolve(flakes, kernels).clamp(0.0, 1.0) * opaque)
    veil = uniform((B, 1, 1, 1), 0.0, 0.3, rng) * (0.5 + 0.5 * smooth_field(B, (H, W), 2, rng))
    cover = (cover + veil).clamp(0.0, 0.97)
    white = uniform((B, 1, 1, 1), 0.75, 1.0, rng)
    return clean * (1.0 - cover) + white * cover


def _drops(shape: tuple[int, ...], density: Tensor, rng: torch.Generator) -> Tensor:
    """Isolated points of random brightness; `density` (B, 1, 1, 1) of the pixels carry one."""
    present = uniform(shape, 0.0, 1.0, rng) < density
    return present * uniform(shape, 0.3, 1.0, rng)


def line_kernels(angle: Tensor, length: Tensor, width: Tensor) -> Tensor:
    """Soft strokes (B, STREAK, STREAK) whose brightest pixel is one.

    Args:
        angle: (B,) radians from the vertical.
        length: (B,) pixels.
        width: (B,) standard deviation across, in pixels.
    """
    axis = torch.arange(STREAK, device=angle.device, dtype=angle.dtype) - STREAK // 2
    y, x = axis[None, :, None], axis[None, None, :]
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    along, across = y * cos + x * sin, x * cos - y * sin
    body = torch.sigmoid((length[:, None, None] / 2.0 - along.abs()) * 1.5)
    stroke = body * torch.exp(-0.5 * (across / width[:, None, None]).square())
    return stroke / stroke.amax((1, 2), keepdim=True)
