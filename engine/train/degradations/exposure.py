"""Low light, and harmless changes of tone that a restorer must not correct."""

from __future__ import annotations

import torch
from torch import Tensor

from varfix.engine.train.degradations.noise import correlate
from varfix.engine.train.degradations.random_draws import log_uniform, normal, smooth_field, uniform

LUMA = (0.299, 0.587, 0.114)


def to_linear(encoded: Tensor) -> Tensor:
    """Convert sRGB values to linear light, approximately, by a power function."""
    return encoded.clamp_min(0.0) ** 2.2


def to_encoded(linear: Tensor) -> Tensor:
    """Convert linear light to sRGB values; the inverse of `to_linear`."""
    return linear.clamp_min(0.0) ** (1.0 / 2.2)


def low_light(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Underexpose in linear light, unevenly, with color cast, shot and read noise.

    The dark images of SICE are related to well-exposed images of the same scene by `gain * light **
    slope`, with slopes of 1.1 to 1.8 and gains of 0.04 to 0.46. Shadows become darker than
    highlights, which may remain white. A slope of 1 is a shorter exposure. Their noise is low.
    """
    B, _, H, W = clean.shape
    # A higher slope keeps highlights brighter.
    slope = 1.0 + 0.8 * uniform((B, 1, 1, 1), 0.0, 1.0, rng) * uniform((B, 1, 1, 1), 0.0, 1.3, rng)
    gain = log_uniform((B, 1, 1, 1), 0.03, 0.55, rng) * slope
    fall_off = 1.0 - uniform((B, 1, 1, 1), 0.0, 0.5, rng) * smooth_field(B, (H, W), 2, rng)
    cast = (1.0 + 0.06 * normal((B, 3, 1, 1), rng)).clamp(0.8, 1.2)
    light = extend_highlights(to_linear(clean), rng) ** slope * gain * fall_off * cast
    shot = log_uniform((B, 1, 1, 1), 1e-7, 5e-4, rng)
    read = log_uniform((B, 1, 1, 1), 1e-5, 2e-3, rng)
    grain = correlate(normal((B, 3, H, W), rng), uniform((B, 1, 1, 1), 0.0, 0.5, rng))
    light = light + (shot * light + read.square()).sqrt() * grain
    gamma = uniform((B, 1, 1, 1), 0.9, 1.15, rng)
    return to_encoded(light) ** gamma


def extend_highlights(light: Tensor, rng: torch.Generator) -> Tensor:
    """Undo the clipping of half of the images (B, 3, H, W): lamps, windows and skies get brighter.

    White in a good exposure is often many times as bright, and still white in a dark image. Only
    the least channel counts, so that colors keep their hue.
    """
    shape = (len(light), 1, 1, 1)
    boost = uniform(shape, 0.0, 1.0, rng).round() * uniform(shape, 0.0, 12.0, rng)
    return light * (1.0 + boost * light.amin(1, keepdim=True) ** 4)


def jitter_tone(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Change the tone of clean images so that they are still good images.

    It is applied to targets, so that the model learns which images need no correction: dusk, high
    key, low contrast, muted or warm colors.
    """
    B = len(clean)
    gamma = log_uniform((B, 1, 1, 1), 0.75, 1.5, rng)
    contrast = uniform((B, 1, 1, 1), 0.65, 1.05, rng)
    brightness = uniform((B, 1, 1, 1), 0.7, 1.05, rng)
    saturation = uniform((B, 1, 1, 1), 0.5, 1.1, rng)
    warmth = 1.0 + 0.03 * normal((B, 3, 1, 1), rng)
    image = clean.clamp(0.0, 1.0) ** gamma
    middle = image.mean((1, 2, 3), keepdim=True)
    image = middle + contrast * (image - middle)
    gray = (image * image.new_tensor(LUMA).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    image = gray + saturation * (image - gray)
    return (image * brightness * warmth).clamp(0.0, 1.0)
