"""Low light, and harmless changes of tone that a restorer must leave alone."""

from __future__ import annotations

import torch
from torch import Tensor

from varfix.engine.train.degradations.noise import correlate
from varfix.engine.train.degradations.random_draws import log_uniform, normal, smooth_field, uniform

LUMA = (0.299, 0.587, 0.114)


def to_linear(encoded: Tensor) -> Tensor:
    """Linear light of sRGB-encoded values, by the power law that is near enough here."""
    return encoded.clamp_min(0.0) ** 2.2


def to_encoded(linear: Tensor) -> Tensor:
    """Inverse of `to_linear`."""
    return linear.clamp_min(0.0) ** (1.0 / 2.2)


def low_light(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Under-expose in linear light, uneven, with cast, shot and read noise.

    Against a well exposed image of the same place, those of SICE follow `gain * light ** slope`:
    slope 1.1 to 1.8, gain 0.04 to 0.46, their shadows darker by more than their lights, which may
    still be white. A slope of one is a short exposure and nothing else. Their noise is small.
    """
    B, _, H, W = clean.shape
    # Steeper curves keep more of the lights.
    slope = 1.0 + 0.8 * uniform((B, 1, 1, 1), 0.0, 1.0, rng) * uniform((B, 1, 1, 1), 0.0, 1.3, rng)
    gain = log_uniform((B, 1, 1, 1), 0.03, 0.55, rng) * slope
    fall_off = 1.0 - uniform((B, 1, 1, 1), 0.0, 0.5, rng) * smooth_field(B, (H, W), 2, rng)
    cast = (1.0 + 0.06 * normal((B, 3, 1, 1), rng)).clamp(0.8, 1.2)
    light = beyond_white(to_linear(clean), rng) ** slope * gain * fall_off * cast
    shot = log_uniform((B, 1, 1, 1), 1e-7, 5e-4, rng)
    read = log_uniform((B, 1, 1, 1), 1e-5, 2e-3, rng)
    grain = correlate(normal((B, 3, H, W), rng), uniform((B, 1, 1, 1), 0.0, 0.5, rng))
    light = light + (shot * light + read.square()).sqrt() * grain
    gamma = uniform((B, 1, 1, 1), 0.9, 1.15, rng)
    return to_encoded(light) ** gamma


def beyond_white(light: Tensor, rng: torch.Generator) -> Tensor:
    """Undo the clipping of half of the images (B, 3, H, W): lamps, windows and skies shine on.

    What a good exposure shows as white is often many times brighter, and still white in a dark one.
    Only white counts, so that colors keep their hue.
    """
    shape = (len(light), 1, 1, 1)
    boost = uniform(shape, 0.0, 1.0, rng).round() * uniform(shape, 0.0, 12.0, rng)
    return light * (1.0 + boost * light.amin(1, keepdim=True) ** 4)


def mood(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Change a photograph as another photographer might have: it is still a good photograph.

    Used on targets, so that the model learns which images need nothing: dusk, high key, low
    contrast, muted or warm colors.
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
    gray = (picture * picture.new_tensor(LUMA).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    picture = gray + saturation * (picture - gray)
    return (picture * brightness * warmth).clamp(0.0, 1.0)
