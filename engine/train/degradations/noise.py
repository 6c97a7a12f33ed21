"""Gaussian and camera-like noise, and JPEG compression."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from varfix.engine.train.degradations.random_draws import log_uniform, normal, uniform

LUMINANCE_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantization of luminance (ITU-T T.81, annex K.1)."""

CHROMINANCE_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
"""Quantization of chrominance (ITU-T T.81, annex K.2)."""

TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def gaussian_noise(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Add white noise with a standard deviation of 1 to 55 (of 255) for each image (B, 3, H, W)."""
    sigma = uniform((len(clean), 1, 1, 1), 1.0, 55.0, rng) / 255.0
    return clean + sigma * normal(tuple(clean.shape), rng)


def camera_noise(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Add signal-dependent noise, spatially correlated as after demosaicing and in-camera filters.

    The variance is `read^2 + shot * linear intensity`. The noise is blurred by a random amount, and
    color noise is stronger than luminance noise. In CC15 the deviation is 3.5 to 8 of 255;
    neighbors have a correlation of 0.48 to 0.67, colors of 0.3 to 0.7.
    """
    B = len(clean)
    shot = log_uniform((B, 1, 1, 1), 1e-4, 1e-2, rng)
    read = log_uniform((B, 1, 1, 1), 2e-3, 3e-2, rng)
    spread = uniform((B, 1, 1, 1), 0.0, 0.65, rng)
    grain = correlate(normal(tuple(clean.shape), rng), spread)
    gray = uniform((B, 1, 1, 1), 0.0, 0.7, rng)
    grain = gray * grain.mean(1, keepdim=True) * math.sqrt(3.0) + (1.0 - gray) * grain
    return clean + (read.square() + shot * clean).sqrt() * grain


def correlate(white: Tensor, spread: Tensor) -> Tensor:
    """Blur white noise with the kernel (spread, 1, spread) along both axes; keep its variance."""
    for axis in (2, 3):
        white = (white + spread * (white.roll(1, axis) + white.roll(-1, axis))) / (
            1.0 + 2.0 * spread.square()
        ).sqrt()
    return white


def jpeg(image: Tensor, rng: torch.Generator) -> Tensor:
    """Compress (B, 3, H, W) in [0, 1] at quality 10 to 90."""
    return compress_jpeg(image, uniform((len(image), 1, 1, 1), 10.0, 90.0, rng))


def light_jpeg(image: Tensor, rng: torch.Generator) -> Tensor:
    """Compress (B, 3, H, W) in [0, 1] at quality 70 to 97, as cameras and phones do."""
    return compress_jpeg(image, uniform((len(image), 1, 1, 1), 70.0, 97.0, rng))


def compress_jpeg(image: Tensor, quality: Tensor) -> Tensor:
    """Compress (B, 3, H, W) in [0, 1] at qualities (B, 1, 1, 1) of libjpeg, from 1 to 100.

    Block transform, standard tables and chroma subsampling are exact. Samples are rounded first, as
    in files.
    """
    H, W = image.shape[-2:]
    image = (image.clamp(0.0, 1.0) * 255.0).round() / 255.0
    matrix = image.new_tensor(TO_YCC)
    padded = functional.pad(image, (0, -W % 16, 0, -H % 16), mode="replicate") * 255.0
    ycc = torch.einsum("ij,bjhw->bihw", matrix, padded)
    luma = _quantize(ycc[:, :1] - 128.0, LUMINANCE_TABLE, quality) + 128.0
    chroma = _quantize(functional.avg_pool2d(ycc[:, 1:], 2), CHROMINANCE_TABLE, quality)
    chroma = functional.interpolate(chroma, scale_factor=2.0, mode="bilinear")
    back = torch.einsum("ij,bjhw->bihw", matrix.inverse(), torch.cat([luma, chroma], 1))
    return back[:, :, :H, :W] / 255.0


def _quantize(plane: Tensor, table: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Round the spectrum of the 8 x 8 blocks of (B, C, H, W) to steps for a quality of libjpeg."""
    scale = torch.where(quality < 50.0, 5000.0 / quality, 200.0 - 2.0 * quality) / 100.0
    steps = (plane.new_tensor(table) * scale[..., None, None]).round().clamp_min(1.0)
    basis = _cosine_basis(plane)
    B, C, H, W = plane.shape
    blocks = plane.reshape(B, C, H // 8, 8, W // 8, 8).transpose(3, 4)  # (B, C, h, w, 8, 8)
    spectrum = basis @ blocks @ basis.T
    spectrum = (spectrum / steps).round() * steps
    return (basis.T @ spectrum @ basis).transpose(3, 4).reshape(B, C, H, W)


def _cosine_basis(like: Tensor) -> Tensor:
    """Return the orthonormal 8-point DCT-II as an (8, 8) matrix."""
    k = torch.arange(8, device=like.device, dtype=like.dtype)
    basis = torch.cos((2.0 * k[None, :] + 1.0) * k[:, None] * math.pi / 16.0) / 2.0
    return torch.cat([basis[:1] / math.sqrt(2.0), basis[1:]])
