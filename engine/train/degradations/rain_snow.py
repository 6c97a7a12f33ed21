"""Rain and snow."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch
from torch import Tensor

from varfix.engine.train.degradations.blur import convolve
from varfix.engine.train.degradations.random_draws import (
    integer,
    log_uniform,
    normal,
    smooth_field,
    uniform,
)

STREAK = 121
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
        fan: deviation of the layers' angles from it, in radians.
        edge: how hard the sides of a streak are, 0 for a bell and 1 for a bar.
        patchy: how much of the rain comes in patches, 0 to 1.
        veil: share of gray light that far drops put over the image.
        share: how often this kind is drawn.
    """

    cover: tuple[float, float]
    strength: tuple[float, float]
    width: tuple[float, float]
    length: tuple[float, float]
    lean: tuple[float, float]
    fan: tuple[float, float]
    edge: tuple[float, float]
    patchy: tuple[float, float]
    veil: tuple[float, float]
    share: tuple[float]


SHOWERS = (
    # Dense, long, hard-edged bars, as in Rain100H: half of an image or more under streaks.
    Shower(
        cover=(0.35, 1.6),
        strength=(0.2, 0.6),
        width=(0.4, 1.1),
        length=(25, 120),
        lean=(0, 0.45),
        fan=(0.01, 0.2),
        edge=(0.3, 1),
        patchy=(0, 0.2),
        veil=(0, 1e-3),
        share=(0.45,),
    ),
    # Soft and faint, in patches, as in Rain1400: an added brightness of 0.05 on average.
    Shower(
        cover=(0.2, 1.8),
        strength=(0.06, 0.3),
        width=(0.5, 1.4),
        length=(14, 70),
        lean=(0, 0.7),
        fan=(0.01, 0.1),
        edge=(0, 0.4),
        patchy=(0.2, 1),
        veil=(0, 0.12),
        share=(0.3,),
    ),
    # Single bright streaks, as a flash or a lamp shows them.
    Shower(
        cover=(0.03, 0.25),
        strength=(0.2, 0.7),
        width=(0.4, 1.1),
        length=(6, 60),
        lean=(0, 0.8),
        fan=(0.01, 0.12),
        edge=(0, 1),
        patchy=(0, 1),
        veil=(0, 0.1),
        share=(0.17,),
    ),
    # A downpour: short fine streaks, the far ones a gray veil (the HeavyRain images).
    Shower(
        cover=(0.4, 1.5),
        strength=(0.1, 0.3),
        width=(0.6, 1.1),
        length=(5, 16),
        lean=(0, 0.6),
        fan=(0.01, 0.1),
        edge=(0, 0.3),
        patchy=(0, 0.3),
        veil=(0.2, 0.7),
        share=(0.08,),
    ),
)


def rain(clean: Tensor, rng: torch.Generator) -> Tensor:
    """One to five layers of streaks of one of `SHOWERS`; they add gray light, as files show."""
    B, _, H, W = clean.shape
    shower = _showers(B, rng)
    light = clean.new_zeros(B, 1, H, W)
    lean = shower["lean"] * uniform((B,), -1.0, 1.0, rng)
    layers = integer(1, 6, rng)
    for _ in range(layers):
        length = shower["length"] * uniform((B,), 0.7, 1.05, rng)
        # A drop's streak covers its length times the width of its bell.
        area = (length * shower["width"] * 2.5).reshape(B, 1, 1, 1)
        drops = _drops((B, 1, H, W), shower["cover"].reshape(B, 1, 1, 1) / layers / area, rng)
        angle = lean + shower["fan"] * normal((B,), rng)
        width = shower["width"] * uniform((B,), 0.8, 1.25, rng)
        kernels = line_kernels(angle, length, width, shower["edge"])
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


FLAKES = (0.6, 0.9, 1.3, 1.9, 2.8, 4.2)
"""Radii of flakes in pixels, from far to near."""


def snow(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Flakes of several sizes, discs and lines along the wind, over a veil.

    Near flakes are larger, fewer and faster; those out of focus are fainter and softer.
    """
    B, _, H, W = clean.shape
    cover = clean.new_zeros(B, 1, H, W)
    wind = uniform((B,), -1.2, 1.2, rng)
    speed = log_uniform((B,), 0.3, 9.0, rng)
    amount = log_uniform((B, 1, 1, 1), 0.25, 3.0, rng)
    for radius in FLAKES:
        size = radius * uniform((B,), 0.8, 1.25, rng)
        share = log_uniform((B, 1, 1, 1), 0.15, 1.6, rng)
        flakes = _drops((B, 1, H, W), amount * share * 3e-3 / radius**1.6, rng)
        turned = wind + 0.15 * normal((B,), rng)
        edge = uniform((B,), 0.0, 1.0, rng)
        kernels = line_kernels(turned, speed * size, size, edge, round_ends=True)
        faint = uniform((B, 1, 1, 1), 0.35, 1.0, rng) if radius > 2.5 else 1.0
        cover = torch.maximum(cover, convolve(flakes, kernels).clamp(0.0, 1.0) * faint)
    veil = uniform((B, 1, 1, 1), 0.0, 0.3, rng).square() * 3.0
    veil = veil * (0.6 + 0.4 * smooth_field(B, (H, W), 2, rng))
    cover = (cover + veil).clamp(0.0, 0.97)
    white = uniform((B, 1, 1, 1), 0.75, 1.0, rng)
    return clean * (1.0 - cover) + white * cover


def _drops(shape: tuple[int, ...], density: Tensor, rng: torch.Generator) -> Tensor:
    """Isolated points of random brightness; `density` (B, 1, 1, 1) of the pixels carry one."""
    present = uniform(shape, 0.0, 1.0, rng) < density
    return present * uniform(shape, 0.3, 1.0, rng)


def line_kernels(
    angle: Tensor, length: Tensor, width: Tensor, edge: Tensor, *, round_ends: bool = False
) -> Tensor:
    """Strokes (B, STREAK, STREAK) whose brightest pixel is one.

    Args:
        angle: (B,) radians from the vertical.
        length: (B,) pixels.
        width: (B,) standard deviation across, in pixels.
        edge: (B,) in [0, 1], 0 for a bell across and 1 for a bar.
        round_ends: ends like half a disc, so that a stroke of no length is a disc.
    """
    axis = torch.arange(STREAK, device=angle.device, dtype=angle.dtype) - STREAK // 2
    y, x = axis[None, :, None], axis[None, None, :]
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    along, across = y * cos + x * sin, x * cos - y * sin
    over = along.abs() - length[:, None, None] / 2.0
    wide = width[:, None, None]
    if round_ends:
        away = (over.clamp_min(0.0).square() + across.square()).sqrt()
        body = torch.ones_like(away)
    else:
        away, body = across.abs(), torch.sigmoid(-1.5 * over)
    bell = torch.exp(-0.5 * (away / wide).square())
    bar = torch.sigmoid(4.0 * (1.25 * wide - away))
    stroke = body * torch.lerp(bell, bar, edge[:, None, None])
    return stroke / stroke.amax((1, 2), keepdim=True)
