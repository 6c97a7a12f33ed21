"""Noise as a camera makes it: on a sensor behind a mosaic of colors, then developed to a file.

The noise of each site is drawn in linear light, demosaicked, white-balanced and mixed by a color
matrix, smoothed as cameras do, and passes the tone curve together with the image. The image itself
takes no part in demosaicking, so that its detail stays the target's. Sources: CBDNet (Guo et al.
2019), Unprocessing (Brooks et al. 2019), Malvar et al. 2004 for the gradient-corrected filters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.train.degradations.random_draws import log_uniform, normal, uniform

TOE, TOE_SLOPE = 0.04045, 12.92
"""Up to there the curve of sRGB is a line. A power law alone would be infinitely steep at black."""

MOST_BENT = 0.9
"""A curve that is level at black could not be undone there."""

NEWTON_STEPS = 5

SHOT = (1e-4, 1.2e-2)
"""Least and greatest variance per unit of light, from base to high gain."""

READ_SLOPE, READ_OFFSET, READ_SPREAD = 2.18, 1.2, 0.26
"""Logarithm of the read variance by that of the shot variance: a line and its spread, as cameras
of the Darmstadt set have it (Brooks et al. 2019)."""

RED_GAIN, BLUE_GAIN = (1.3, 2.6), (1.2, 2.4)
"""White balance: what red and blue are multiplied by."""

Kernel = tuple[tuple[tuple[int, ...], ...], float]
"""Values of a filter, and what they are divided by."""

GREEN: Kernel = (((0, 1, 0), (1, 4, 1), (0, 1, 0)), 4.0)
OTHER: Kernel = (((1, 2, 1), (2, 4, 2), (1, 2, 1)), 4.0)
"""Bilinear interpolation of a mosaic with zeros between the sites of a color."""

CURVATURE: Kernel = (
    ((0, 0, -1, 0, 0), (0, 0, 0, 0, 0), (-1, 0, 4, 0, -1), (0, 0, 0, 0, 0), (0, 0, -1, 0, 0)),
    8.0,
)
"""What the red or blue of a site tells about the green that it lacks (Malvar et al. 2004)."""

SMOOTHED, SHARPENED, ENLARGED = 0.6, 0.35, 0.25
"""Shares of images whose noise the camera smoothed, sharpened, or enlarged."""


def sensor_noise(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Add the noise of a sensor to images (B, 3, H, W) in [0, 1] of even size; not clamped.

    In CC15 the deviation is 3.5 to 8 of 255, neighbors correlate by 0.48 to 0.67, colors by 0.3
    to 0.7; phones reach a deviation of 25.
    """
    shape = (len(clean), 1, 1, 1)
    bend = uniform(shape, 0.0, MOST_BENT, rng)
    light = to_light(clean, bend)
    grain = _developed(light, rng)
    grain = _finished(grain, rng)
    noisy = to_file((light + grain).clamp(0.0, 1.0), bend)
    return _sharpened(clean, noisy, rng)


def to_light(encoded: Tensor, bend: Tensor) -> Tensor:
    """Linear light of a file: the inverse of `to_file`, by Newton's method.

    Args:
        encoded: (B, 3, H, W) in [0, 1].
        bend: (B, 1, 1, 1) in [0, 1), how much of an S-curve the camera applied.
    """
    wanted = encoded.clamp(0.0, 1.0)
    # Begin with the inverse of the whole curve, as much of it as there is.
    whole = 0.5 - ((1.0 - 2.0 * wanted).asin() / 3.0).sin()
    value = torch.lerp(wanted, whole, bend)
    for _ in range(NEWTON_STEPS):
        slope = 1.0 - bend + 6.0 * bend * value * (1.0 - value)
        value = (value - (_bent(value, bend) - wanted) / slope).clamp(0.0, 1.0)
    return torch.where(value <= TOE, value / TOE_SLOPE, ((value + 0.055) / 1.055) ** 2.4)


def to_file(light: Tensor, bend: Tensor) -> Tensor:
    """A file's values of linear light, both (B, 3, H, W) in [0, 1]; `bend` as in `to_light`."""
    bright = 1.055 * light.clamp_min(1e-4) ** (1.0 / 2.4) - 0.055
    return _bent(torch.where(light <= TOE / TOE_SLOPE, light * TOE_SLOPE, bright), bend)


def _bent(value: Tensor, bend: Tensor) -> Tensor:
    """A share of the S-curve that cameras are near to (Brooks et al. 2019)."""
    return torch.lerp(value, value * value * (3.0 - 2.0 * value), bend)


def _developed(light: Tensor, rng: torch.Generator) -> Tensor:
    """Noise (B, 3, H, W) in linear light, demosaicked and in the file's colors."""
    B, _, H, W = light.shape
    shape = (B, 1, 1, 1)
    red, blue = uniform(shape, *RED_GAIN, rng), uniform(shape, *BLUE_GAIN, rng)
    gains = torch.cat([red, torch.ones_like(red), blue], 1)
    matrix = color_matrices(B, rng)
    # The sensor's colors of the image: what mixing and balancing will undo.
    raw = torch.einsum("bij,bjhw->bihw", torch.linalg.inv(matrix), light).clamp_min(0.0) / gains
    shot = log_uniform(shape, *SHOT, rng)
    read = (READ_SLOPE * shot.log() + READ_OFFSET + READ_SPREAD * normal(shape, rng)).exp()
    sites = bayer_sites(H, W, light.device)
    seen = (raw * sites).sum(1, keepdim=True)
    agreed = uniform(shape, 0.0, 1.3, rng).clamp_max(1.0)
    mosaic = (shot * seen + read).sqrt() * normal((B, 1, H, W), rng)
    return torch.einsum("bij,bjhw->bihw", matrix, demosaicked(mosaic, sites, agreed) * gains)


def bayer_sites(height: int, width: int, device: torch.device) -> Tensor:
    """Which color each site sees: rows of red and green above rows of green and blue.

    Returns:
        (3, H, W) of zeros and ones.
    """
    row = torch.arange(height, device=device)[:, None] % 2
    column = torch.arange(width, device=device)[None] % 2
    red, blue = (1 - row) * (1 - column), row * column
    return torch.stack([red, 1 - red - blue, blue]).float()


def demosaicked(mosaic: Tensor, sites: Tensor, agreed: Tensor) -> Tensor:
    """Colors (B, 3, H, W) of a mosaic (B, 1, H, W).

    Args:
        mosaic: what each site saw.
        sites: (3, H, W) of `bayer_sites`.
        agreed: (B, 1, 1, 1) in [0, 1], 0 for colors interpolated each by itself, 1 for red and
            blue interpolated as differences from a gradient-corrected green, whose grain they
            then share.
    """
    alone = _interpolated(mosaic * sites, (OTHER, GREEN, OTHER))
    curved = functional.conv2d(
        functional.pad(mosaic, (2, 2, 2, 2), mode="reflect"), _kernel(CURVATURE, mosaic)
    )
    green = torch.where(sites[1] > 0.5, mosaic, alone[:, 1:2] + curved)
    apart = _interpolated((mosaic - green) * sites[::2], (OTHER, OTHER))
    together = torch.cat([green + apart[:, :1], green, green + apart[:, 1:]], 1)
    return torch.lerp(alone, together, agreed)


def _interpolated(sparse: Tensor, kernels: Sequence[Kernel]) -> Tensor:
    """Fill the zeros between the sites of every channel (B, C, H, W)."""
    filters = torch.cat([_kernel(kernel, sparse) for kernel in kernels])
    padded = functional.pad(sparse, (1, 1, 1, 1), mode="reflect")
    return functional.conv2d(padded, filters, groups=len(kernels))


def _kernel(kernel: Kernel, like: Tensor) -> Tensor:
    values, divisor = kernel
    return like.new_tensor(values)[None, None] / divisor


def color_matrices(batch: int, rng: torch.Generator) -> Tensor:
    """Matrices (batch, 3, 3) from a sensor's colors to a file's: saturating, rows sum to one."""
    amount = uniform((batch, 1, 1), 0.1, 0.6, rng)
    mixing = 1.0 + 0.3 * normal((batch, 3, 3), rng)
    mixing = mixing.clamp(0.3, 1.7) * (1.0 - torch.eye(3, device=rng.device))
    mixing = amount * mixing / mixing.sum(2, keepdim=True)
    return torch.diag_embed(1.0 + mixing.sum(2)) - mixing


def _finished(grain: Tensor, rng: torch.Generator) -> Tensor:
    """Smooth the noise of some images (B, 3, H, W): colors more than brightness; enlarge some."""
    B = len(grain)
    shape = (B, 1, 1, 1)
    smoothed = (uniform(shape, 0.0, 1.0, rng) < SMOOTHED).float()
    gray = grain.mean(1, keepdim=True)
    tint = torch.lerp(
        grain - gray, _soft(grain - gray, 7), smoothed * uniform(shape, 0.3, 1.0, rng)
    )
    gray = torch.lerp(gray, _soft(gray, 5), smoothed * uniform(shape, 0.0, 0.6, rng))
    grain = gray + tint
    enlarged = uniform((B,), 0.0, 1.0, rng) < ENLARGED
    if bool(enlarged.any()):
        grain[enlarged] = _enlarged(grain[enlarged], float(uniform((), 1.1, 1.8, rng)))
    return grain


def _soft(grain: Tensor, side: int) -> Tensor:
    """A mean over squares, weighted toward their middle."""
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


def _enlarged(grain: Tensor, scale: float) -> Tensor:
    """The noise of a larger image's part: cropped, enlarged to the same size."""
    H, W = grain.shape[-2:]
    part = grain[..., : math.ceil(H / scale), : math.ceil(W / scale)]
    return functional.interpolate(part, size=(H, W), mode="bicubic")


def _sharpened(clean: Tensor, noisy: Tensor, rng: torch.Generator) -> Tensor:
    """Sharpen what was added to some images: the target shows what the camera made of the rest."""
    shape = (len(clean), 1, 1, 1)
    amount = (uniform(shape, 0.0, 1.0, rng) < SHARPENED) * uniform(shape, 0.2, 1.0, rng)
    added = noisy - clean
    return clean + added + amount * (added - _soft(added, 3))
