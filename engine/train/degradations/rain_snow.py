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
"""Side of the kernel of the longest streak in pixels."""


@dataclass(frozen=True)
class RainStyle:
    """A kind of rain: ranges of the values that are drawn for each image.

    Attributes:
        cover: Mean number of streaks of a layer over a pixel.
        strength: Light that the brightest streak adds.
        width: Standard deviation across a streak, in pixels.
        length: Length of a streak, in pixels.
        lean: Largest angle from the vertical, in radians.
        fan: Deviation of the layers' angles, in radians.
        edge: Profile across a streak, from 0 (Gaussian) to 1 (box).
        patchy: Share of the rain that is concentrated in patches, 0 to 1.
        veil: Share of gray light from distant drops.
        share: Relative frequency of this kind.
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


RAIN_STYLES = (
    # Dense, long streaks with hard edges, as in Rain100H: they cover at least half of an image.
    RainStyle(
        cover=(0.35, 1.6),
        strength=(0.2, 0.6),
        width=(0.4, 1.1),
        length=(25, 120),
        lean=(0, 0.45),
        fan=(0.01, 0.2),
        edge=(0.3, 1),
        patchy=(0, 0.2),
        veil=(0, 1e-3),
        share=(0.4,),
    ),
    # Soft and faint, in patches, as in Rain1400: they add 0.05 on average.
    RainStyle(
        cover=(0.2, 1.8),
        strength=(0.06, 0.3),
        width=(0.5, 1.4),
        length=(14, 70),
        lean=(0, 0.7),
        fan=(0.01, 0.1),
        edge=(0, 0.4),
        patchy=(0.2, 1),
        veil=(0, 0.12),
        share=(0.22,),
    ),
    # Wide and soft, of drops near the camera and out of focus, as in other images of Rain1400.
    RainStyle(
        cover=(0.1, 1.2),
        strength=(0.08, 0.4),
        width=(1.2, 3.2),
        length=(20, 110),
        lean=(0, 0.7),
        fan=(0.01, 0.1),
        edge=(0, 0.3),
        patchy=(0, 1),
        veil=(0, 0.06),
        share=(0.2,),
    ),
    # Single bright streaks, as in the light of a flash or a lamp.
    RainStyle(
        cover=(0.03, 0.25),
        strength=(0.2, 0.7),
        width=(0.4, 1.1),
        length=(6, 60),
        lean=(0, 0.8),
        fan=(0.01, 0.12),
        edge=(0, 1),
        patchy=(0, 1),
        veil=(0, 0.1),
        share=(0.12,),
    ),
    # Short fine streaks; distant ones form a gray veil (HeavyRain).
    RainStyle(
        cover=(0.4, 1.5),
        strength=(0.1, 0.3),
        width=(0.6, 1.1),
        length=(5, 16),
        lean=(0, 0.6),
        fan=(0.01, 0.1),
        edge=(0, 0.3),
        patchy=(0, 0.3),
        veil=(0.2, 0.7),
        share=(0.06,),
    ),
)


def rain(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Add one to five layers of gray streaks of one of `RAIN_STYLES`, and its veil."""
    style = _draw_styles(len(clean), rng)
    light = _streak_light(clean, style, rng)
    return _screen(_veil(clean, style, rng), light, rng)


def streaks(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Add streaks as `rain` does, without a veil: what a network that sees a tile can remove."""
    light = _streak_light(clean, _draw_styles(len(clean), rng), rng)
    return _screen(clean, light, rng)


def _streak_light(clean: Tensor, style: dict[str, Tensor], rng: torch.Generator) -> Tensor:
    """Return the light (B, 1, H, W) that the streaks add."""
    B, _, H, W = clean.shape
    light = clean.new_zeros(B, 1, H, W)
    lean = style["lean"] * uniform((B,), -1.0, 1.0, rng)
    layers = integer(1, 6, rng)
    for _ in range(layers):
        length = style["length"] * uniform((B,), 0.7, 1.05, rng)
        # Area of a streak: its length times its effective width.
        area = (length * style["width"] * 2.5).reshape(B, 1, 1, 1)
        drops = _drops((B, 1, H, W), style["cover"].reshape(B, 1, 1, 1) / layers / area, rng)
        angle = lean + style["fan"] * normal((B,), rng)
        width = style["width"] * uniform((B,), 0.8, 1.25, rng)
        kernels = line_kernels(angle, length, width, style["edge"])
        light = light + convolve(drops, kernels).clamp_min(0.0)
    return light * style["strength"].reshape(B, 1, 1, 1) * _patches((B, H, W), style, rng)


def _veil(clean: Tensor, style: dict[str, Tensor], rng: torch.Generator) -> Tensor:
    """Hide images behind the gray light of distant drops."""
    B, _, H, W = clean.shape
    veil = style["veil"].reshape(B, 1, 1, 1) * uniform((B, 1, 1, 1), 0.3, 1.0, rng)
    veil = veil * (0.6 + 0.4 * smooth_field(B, (H, W), 2, rng))
    return clean * (1.0 - veil) + veil * uniform((B, 1, 1, 1), 0.45, 0.85, rng)


def _screen(image: Tensor, light: Tensor, rng: torch.Generator) -> Tensor:
    """Add light; in a quarter of the images less of it where the image is bright."""
    screened = (uniform((len(image), 1, 1, 1), 0.0, 1.0, rng) < 0.25).float()
    return image + light * (1.0 - screened * image)


def _draw_styles(batch: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Return a value (batch,) of every attribute of `RainStyle`, from one style for each image."""
    shares = torch.tensor([kind.share[0] for kind in RAIN_STYLES], device=rng.device)
    kinds = torch.multinomial(shares, batch, replacement=True, generator=rng)
    drawn = {}
    for place, name in enumerate(RainStyle.__dataclass_fields__):
        if name == "share":
            continue
        bounds = torch.tensor([astuple(kind)[place] for kind in RAIN_STYLES], device=rng.device)[
            kinds
        ]
        low, high = bounds[:, 0], bounds[:, 1]
        where = uniform((batch,), 0.0, 1.0, rng)
        even, factors = low + where * (high - low), low.clamp_min(1e-6) ** (1.0 - where)
        drawn[name] = torch.where(low > 0.0, factors * high**where, even)
    return drawn


def _patches(size: tuple[int, int, int], style: dict[str, Tensor], rng: torch.Generator) -> Tensor:
    """Return the local density of rain, (B, 1, H, W), with a mean of about 1."""
    B, H, W = size
    share = style["patchy"].reshape(B, 1, 1, 1)
    return 1.0 - share + 2.0 * share * smooth_field(B, (H, W), 3, rng).square()


FLAKES = (0.6, 0.9, 1.3, 1.9, 2.8, 4.2)
"""Radii of flakes in pixels, from far to near."""


def snow(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Add flakes of several sizes, as discs or lines along the wind, and a veil.

    Near flakes are larger, fewer and faster; defocused flakes are fainter and softer.
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
    """Return isolated points of random brightness; `density` (B, 1, 1, 1) is their share."""
    present = uniform(shape, 0.0, 1.0, rng) < density
    return present * uniform(shape, 0.3, 1.0, rng)


def line_kernels(
    angle: Tensor, length: Tensor, width: Tensor, edge: Tensor, *, round_ends: bool = False
) -> Tensor:
    """Return strokes (B, STREAK, STREAK) with a maximum of 1.

    Args:
        angle: (B,) radians from the vertical.
        length: (B,) pixels.
        width: (B,) standard deviation across, in pixels.
        edge: (B,) in [0, 1], profile across, from 0 (Gaussian) to 1 (box).
        round_ends: Use round ends, so that a stroke of length 0 is a disc.
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
