"""Low light, and harmless changes of tone that a restorer must leave alone."""

from __future__ import annotations

import torch
from torch import Tensor

from varfix.engine.train.draw import log_uniform, normal, smooth_field, uniform

LUMA = (0.299, 0.587, 0.114)


def to_linear(encoded: Tensor) -> Tensor:
    """Linear light of sRGB-encoded values, by the power law that is near enough here."""
    return encoded.clamp_min(0.0) ** 2.2


def to_encoded(linear: Tensor) -> Tensor:
    """Inverse of `to_linear`."""
    return linear.clamp_min(0.0) ** (1.0 / 2.2)


def low_light(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Under-expose in linear light by 0.02 to 0.4, uneven, with cast, shot and read noise."""
    B, _, H, W = clean.shape
    exposure = log_uniform((B, 1, 1, 1), 0.02, 0.4, rng)
    fall_off = 1.0 - uniform((B, 1, 1, 1), 0.0, 0.4, rng) * smooth_field(B, (H, W), 2, rng)
    cast = (1.0 + 0.06 * normal((B, 3, 1, 1), rng)).clamp(0.8, 1.2)
    light = to_linear(clean) * exposure * fall_off * cast
    shot = log_uniform((B, 1, 1, 1), 1e-6, 1e-3, rng)
    read = log_uniform((B, 1, 1, 1), 1e-5, 3e-3, rng)
    light = light + (shot * light + read.square()).sqrt() * normal((B, 3, H, W), rng)
    gamma = uniform((B, 1, 1, 1), 0.9, 1.15, rng)
    return to_encoded(light) ** gamma


def mood(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Change a photograph as another photographer might have: it is still a good photograph.

    Used on targets, so that the model learns which pictures need nothing: dusk, high key, low
    contrast, muted or warm colours.
    """
    B = len(clean)
    gamma = log_uniform((B, 1, 1, 1), 0.75, 1.5, rng)
    contrast = uniform((B, 1, 1, 1), 0.65, 1.05, rng)
    brightness = uniform((B, 1, 1, 1), 0.7, 1.05, rng)
    saturation = uniform((B, 1, 1, 1), 0.5, 1.1, rng)
    warmth = 1.0 + 0.03 * normal((B, 3, 1, 1), rng)
    picture = clean.clamp(0.0, 1.0) ** gamma
    middle = picture.mean((1, 2, 3), keepdim=True)
    picture = middle + contrast * (picture - middle)
    grey = (picture * picture.new_tensor(LUMA).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    picture = grey + saturation * (picture - grey)
    return (picture * brightness * warmth).clamp(0.0, 1.0)
