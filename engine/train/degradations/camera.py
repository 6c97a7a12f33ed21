"""Noise of cameras: noise of a sensor with a color filter array, developed to an image file.

The noise is drawn in linear light for each site of the sensor, demosaicked, white-balanced, mixed
by
a color matrix and smoothed, and passes the tone curve together with the image. The image itself is
not demosaicked, so that its detail is that of the target. Sources: CBDNet (Guo et al. 2019),
Unprocessing (Brooks et al. 2019), and Malvar et al. 2004 for the gradient-corrected filters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.train.degradations.random_draws import log_uniform, normal, uniform

TOE, TOE_SLOPE = 0.04045, 12.92
"""Up to this value the curve of sRGB is a line; a power function would have infinite slope at
black."""

MAX_S_CURVE = 0.9
"""Largest share of the S-curve. At 1 it would have no slope at black, and no inverse there."""

NEWTON_STEPS = 5

SHOT = (1e-4, 1.2e-2)
"""Range of the variance per unit of light, from base to high gain."""

READ_SLOPE, READ_OFFSET, READ_SPREAD = 2.18, 1.2, 0.26
"""Linear model of the logarithm of the read variance, given that of the shot variance, and its
deviation, fitted to the cameras of the Darmstadt set (Brooks et al. 2019)."""

RED_GAIN, BLUE_GAIN = (1.3, 2.6), (1.2, 2.4)
"""White balance: ranges of the gains of red and blue."""

Kernel = tuple[tuple[tuple[int, ...], ...], float]
"""Values of a filter, and their divisor."""

GREEN: Kernel = (((0, 1, 0), (1, 4, 1), (0, 1, 0)), 4.0)
OTHER: Kernel = (((1, 2, 1), (2, 4, 2), (1, 2, 1)), 4.0)
"""Bilinear interpolation of a mosaic that has zeros at the sites of the other colors."""

CURVATURE: Kernel = (
    ((0, 0, -1, 0, 0), (0, 0, 0, 0, 0), (-1, 0, 4, 0, -1), (0, 0, 0, 0, 0), (0, 0, -1, 0, 0)),
    8.0,
)
"""Correction of the interpolated green by the second derivative of red or blue (Malvar et al.
2004)."""

SMOOTHED, SHARPENED, ENLARGED = 0.6, 0.35, 0.25
"""Shares of images whose noise is smoothed, sharpened, or enlarged by the camera."""


def sensor_noise(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Add sensor noise to images (B, 3, H, W) in [0, 1] of even size; the result is not clamped.

    In CC15 the deviation is 3.5 to 8 of 255; neighbors have a correlation of 0.48 to 0.67, colors
    of 0.3 to 0.7. The deviation of phones reaches 25.
    """
    shape = (len(clean), 1, 1, 1)
    s_curve = uniform(shape, 0.0, MAX_S_CURVE, rng)
    light = to_linear_light(clean, s_curve)
    grain = _develop(light, rng)
    grain = _process(grain, rng)
    noisy = to_file_values((light + grain).clamp(0.0, 1.0), s_curve)
    return _sharpen(clean, noisy, rng)


def to_linear_light(encoded: Tensor, s_curve: Tensor) -> Tensor:
    """Convert values of a file to linear light: the inverse of `to_file_values`.

    It is computed by Newton's method.

    Args:
        encoded: (B, 3, H, W) in [0, 1].
        s_curve: (B, 1, 1, 1) in [0, 1), share of the S-curve.
    """
    wanted = encoded.clamp(0.0, 1.0)
    # Initial value: the inverse of the S-curve, weighted by its share.
    whole = 0.5 - ((1.0 - 2.0 * wanted).asin() / 3.0).sin()
    value = torch.lerp(wanted, whole, s_curve)
    for _ in range(NEWTON_STEPS):
        slope = 1.0 - s_curve + 6.0 * s_curve * value * (1.0 - value)
        value = (value - (_apply_s_curve(value, s_curve) - wanted) / slope).clamp(0.0, 1.0)
    return torch.where(value <= TOE, value / TOE_SLOPE, ((value + 0.055) / 1.055) ** 2.4)


def to_file_values(light: Tensor, s_curve: Tensor) -> Tensor:
    """Convert linear light to values of a file; the inverse of `to_linear_light`."""
    bright = 1.055 * light.clamp_min(1e-4) ** (1.0 / 2.4) - 0.055
    return _apply_s_curve(torch.where(light <= TOE / TOE_SLOPE, light * TOE_SLOPE, bright), s_curve)


def _apply_s_curve(value: Tensor, s_curve: Tensor) -> Tensor:
    """Blend values with the S-curve that approximates those of cameras (Brooks et al. 2019)."""
    return torch.lerp(value, value * value * (3.0 - 2.0 * value), s_curve)


def _develop(light: Tensor, rng: torch.Generator) -> Tensor:
    """Return noise (B, 3, H, W) in linear light, demosaicked, in the colors of the file."""
    B, _, H, W = light.shape
    shape = (B, 1, 1, 1)
    red, blue = uniform(shape, *RED_GAIN, rng), uniform(shape, *BLUE_GAIN, rng)
    gains = torch.cat([red, torch.ones_like(red), blue], 1)
    matrix = color_matrices(B, rng)
    # The image in the sensor's colors: color matrix and white balance inverted.
    raw = torch.einsum("bij,bjhw->bihw", torch.linalg.inv(matrix), light).clamp_min(0.0) / gains
    shot = log_uniform(shape, *SHOT, rng)
    read = (READ_SLOPE * shot.log() + READ_OFFSET + READ_SPREAD * normal(shape, rng)).exp()
    sites = bayer_sites(H, W, light.device)
    measured = (raw * sites).sum(1, keepdim=True)
    correlation = uniform(shape, 0.0, 1.3, rng).clamp_max(1.0)
    mosaic = (shot * measured + read).sqrt() * normal((B, 1, H, W), rng)
    return torch.einsum("bij,bjhw->bihw", matrix, demosaic(mosaic, sites, correlation) * gains)


def bayer_sites(height: int, width: int, device: torch.device) -> Tensor:
    """Return the color of each site: rows of red and green alternate with rows of green and blue.

    Returns:
        (3, H, W) of zeros and ones.
    """
    row = torch.arange(height, device=device)[:, None] % 2
    column = torch.arange(width, device=device)[None] % 2
    red, blue = (1 - row) * (1 - column), row * column
    return torch.stack([red, 1 - red - blue, blue]).float()


def demosaic(mosaic: Tensor, sites: Tensor, correlation: Tensor) -> Tensor:
    """Return the colors (B, 3, H, W) of a mosaic (B, 1, H, W).

    Args:
        mosaic: Value of each site.
        sites: (3, H, W), from `bayer_sites`.
        correlation: (B, 1, 1, 1) in [0, 1]. At 0, each color is interpolated alone. At 1, red and
            blue are interpolated as differences from a gradient-corrected green, and share its
            noise.
    """
    alone = _interpolate(mosaic * sites, (OTHER, GREEN, OTHER))
    curved = functional.conv2d(
        functional.pad(mosaic, (2, 2, 2, 2), mode="reflect"), _kernel(CURVATURE, mosaic)
    )
    green = torch.where(sites[1] > 0.5, mosaic, alone[:, 1:2] + curved)
    apart = _interpolate((mosaic - green) * sites[::2], (OTHER, OTHER))
    together = torch.cat([green + apart[:, :1], green, green + apart[:, 1:]], 1)
    return torch.lerp(alone, together, correlation)


def _interpolate(sparse: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """Fill the zeros between the sites of each channel (B, C, H, W)."""
    filters = torch.cat([_kernel(kernel, sparse) for kernel in kernels])
    padded = functional.pad(sparse, (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(padded, filters, groups=len(kernels))


def _kernel(kernel: Kernel, like: Tensor) -> Tensor:
    values, divisor = kernel
    return like.new_tensor(values)[None, None] / divisor


def color_matrices(batch: int, rng: torch.Generator) -> Tensor:
    """Return matrices (batch, 3, 3) from sensor to file colors: saturating, with row sums of 1."""
    amount = uniform((batch, 1, 1), 0.1, 0.6, rng)
    mixing = 1.0 + 0.3 * normal((batch, 3, 3), rng)
    mixing = mixing.clamp(0.3, 1.7) * (1.0 - torch.eye(3, device=rng.device))
    mixing = amount * mixing / mixing.sum(2, keepdim=True)
    return torch.diag_embed(1.0 + mixing.sum(2)) - mixing


def _process(grain: Tensor, rng: torch.Generator) -> Tensor:
    """Smooth the noise (B, 3, H, W) of some images, colors more than brightness; enlarge some."""
    B = len(grain)
    shape = (B, 1, 1, 1)
    smoothed = (uniform(shape, 0.0, 1.0, rng) < SMOOTHED).float()
    gray = grain.mean(1, keepdim=True)
    tint = torch.lerp(
        grain - gray, _blur(grain - gray, 7), smoothed * uniform(shape, 0.3, 1.0, rng)
    )
    gray = torch.lerp(gray, _blur(gray, 5), smoothed * uniform(shape, 0.0, 0.6, rng))
    grain = gray + tint
    enlarged = uniform((B,), 0.0, 1.0, rng) < ENLARGED
    if bool(enlarged.any()):
        grain[enlarged] = _enlarge(grain[enlarged], float(uniform((), 1.1, 1.8, rng)))
    return grain


def _blur(grain: Tensor, side: int) -> Tensor:
    """Blur with a truncated Gaussian of `side` pixels."""
    half = side // 2
    axis = torch.arange(-half, half + 1, device=grain.device, dtype=grain.dtype)
    bell = torch.exp(-0.5 * (axis / (0.5 * half + 0.25)).square())
    bell = bell / bell.sum()
    channels = grain.shape[1]
    padded = functional.pad(grain, (half, half, half, half), mode="reflect")
    rows = functional.conv2d(
        padded, bell.reshape(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels
    )
    return functional.conv2d(
        rows, bell.reshape(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels
    )


def _enlarge(grain: Tensor, scale: float) -> Tensor:
    """Return the noise of a larger image: a part of it, enlarged to the same size."""
    H, W = grain.shape[-2:]
    part = grain[..., : math.ceil(H / scale), : math.ceil(W / scale)]
    return functional.interpolate(part, size=(H, W), mode="bicubic")


def _sharpen(clean: Tensor, noisy: Tensor, rng: torch.Generator) -> Tensor:
    """Sharpen the noise of some images; the target already contains the camera's sharpening."""
    shape = (len(clean), 1, 1, 1)
    amount = (uniform(shape, 0.0, 1.0, rng) < SHARPENED) * uniform(shape, 0.2, 1.0, rng)
    added = noisy - clean
    return clean + added + amount * (added - _blur(added, 3))
