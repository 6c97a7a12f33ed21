"""Exposures of linear light: what a camera makes of a scene that is brighter than it can record."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from varfix.engine.train.degradations.random_draws import chance, uniform

Floats = NDArray[np.float32]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MIDDLE = 0.16
"""Light of the logarithmic mean of a well exposed image."""

STOPS = (-4.0, -2.0, 0.0, 2.0)
"""Exposures that are fused, relative to the good one that is bright by one stop."""


def number(low: float, high: float, rng: torch.Generator) -> float:
    """One uniform number in [low, high)."""
    return float(uniform((), low, high, rng))


def luma_of(image: Floats) -> Floats:
    """Luma (H, W) of (H, W, 3)."""
    luma: Floats = image @ LUMA
    return luma


def good_gain(light: Floats) -> float:
    """The gain by which linear light (H, W, 3) becomes a well exposed image.

    Its logarithmic mean becomes middle gray, as a light meter has it.
    """
    luma = luma_of(light)
    floor = 1e-3 * float(luma.mean()) + 1e-8
    return MIDDLE / float(np.exp(np.log(luma + floor).mean()))


def encoded(light: Floats) -> Floats:
    """Linear light, clipped at white, with the transfer curve of sRGB files."""
    values: Floats = np.clip(light, 0.0, 1.0) ** np.float32(1.0 / 2.2)
    return values


def developed(light: Floats, rng: torch.Generator) -> Floats:
    """Linear light as a camera's file: the S-curve that makers like, black where it is dark."""
    image = contrasted(encoded(light), number(0.1, 1.1, rng))
    black = float(np.quantile(image, 0.01)) - number(0.0, 0.04, rng)
    if black > 0.0:
        image = np.clip((image - black) / (1.0 - black), 0.0, 1.0).astype(np.float32)
    return image


def contrasted(image: Floats, share: float) -> Floats:
    """Move an image (H, W, 3) in [0, 1] towards its smooth S-curve."""
    curve: Floats = image * image * (3.0 - 2.0 * image)
    mixed: Floats = image + np.float32(share) * (curve - image)
    return mixed


def fused(light: Floats, gain: float) -> Floats:
    """What several exposures together show, (H, W, 3) in [0, 1]: exposure fusion (Mertens 2007).

    Shadows are lifted and lights kept: what a person standing there sees.
    """
    shots = [encoded(light * (gain * 2.0**stop)) * 255.0 for stop in STOPS]
    merged = cv2.createMergeMertens(1.0, 1.0, 1.0).process([s.astype(np.uint8) for s in shots])
    return np.clip(np.asarray(merged, np.float32), 0.0, 1.0)


def beyond(image: Floats, rng: torch.Generator) -> Floats:
    """Linear light (H, W, 3) that may have led to a good image: the inverse of its tone mapping.

    Bright regions shone brighter than a file can say, and its shadows were lifted: light is spread
    by its smoothed brightness. White shines on by up to twelve times.
    """
    light = np.clip(image, 0.0, 1.0).astype(np.float32) ** 2.2
    luma = luma_of(light)
    radius = max(3, int(image.shape[0] * number(0.02, 0.12, rng)))
    base = _calm(np.log(luma + 1e-3), np.sqrt(luma), radius)
    spread = number(0.0, 1.1, rng) if chance(0.75, rng) else 0.0
    local = np.exp(spread * (base - np.median(base)))
    boost = number(0.0, 12.0, rng) if chance(0.5, rng) else 0.0
    white = light.min(axis=2) ** 4
    wide: Floats = light * (local * (1.0 + boost * white))[..., None].astype(np.float32)
    return wide


def _calm(values: Floats, guide: Floats, radius: int) -> Floats:
    """The guided filter (He et al. 2010): smooth inside of surfaces, sharp between them."""
    size = (2 * radius + 1, 2 * radius + 1)
    mean, mean_guide = cv2.blur(values, size), cv2.blur(guide, size)
    slope = (cv2.blur(values * guide, size) - mean * mean_guide) / (
        cv2.blur(guide * guide, size) - mean_guide * mean_guide + 4e-3
    )
    offset = mean - slope * mean_guide
    calm: Floats = np.asarray(cv2.blur(slope, size) * guide + cv2.blur(offset, size), np.float32)
    return calm


def under_exposed(light: Floats, gain: float, rng: torch.Generator) -> Floats:
    """A file of light (H, W, 3) that a camera exposed for less than `gain`, or could not gather.

    One to six stops too little; with a curve of its own, cast, and the noise of few photons.
    """
    stops = 0.8 + 5.2 * number(0.0, 1.0, rng) ** 1.3
    if chance(0.25, rng):
        light = light * _lamp(light.shape[:2], rng)
    short = light * np.float32(gain * 2.0**-stops)
    cast = 1.0 + 0.05 * torch.randn(3, generator=rng).numpy()
    short = short * np.clip(cast, 0.85, 1.15).astype(np.float32)
    read, shot = 10.0 ** number(-5.0, -2.8, rng), 10.0 ** number(-7.0, -3.4, rng)
    grain = torch.randn(short.shape, generator=rng).numpy()
    short = short + np.sqrt(shot * np.clip(short, 0.0, 1.0) + read * read) * grain
    image = encoded(short.astype(np.float32))
    if chance(0.5, rng):
        image = contrasted(image, number(0.0, 0.9, rng))
    curve: Floats = image ** np.float32(number(0.9, 1.2, rng))
    return curve


def _lamp(size: tuple[int, int], rng: torch.Generator) -> Floats:
    """Light (H, W, 1) that falls off from one place: a lamp, a window beside the image."""
    height, width = size
    y, x = number(-0.3, 1.3, rng) * height, number(-0.3, 1.3, rng) * width
    rows, columns = np.ogrid[:height, :width]
    reach = number(0.25, 1.0, rng) * max(size)
    distance = ((rows - y) ** 2 + (columns - x) ** 2) / (reach * reach)
    light: Floats = (0.15 + 1.2 / (1.0 + 2.0 * distance)).astype(np.float32)[..., None]
    return light
