"""Synthetic damage with fixed seeds for measurements: the same images on every machine.

Plain numpy in double precision, independent of the degradations in training, so that a model is not
tested on its training data. The random numbers come from PCG64, seeded with the protocol and the
index of the file in its sorted folder.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image

from varfix.engine.image.decoded_image import Integers

Doubles = npt.NDArray[np.float64]
DamageProtocol = Callable[[Doubles, np.random.Generator], Doubles]
"""Damages (H, W, C) in [0, 1]; the result may exceed the range."""

GAMMA = 2.2
KERNEL = 41
"""Side of kernels, large enough for streaks and paths."""


def add_noise(samples: Integers, sigma: float, seed: int) -> Integers:
    """Add Gaussian noise that is the same on every machine.

    Args:
        samples: (H, W, C) uint8.
        sigma: Standard deviation in 0..255.
        seed: Seed of numpy's PCG64.

    Returns:
        (H, W, C) uint8, rounded and clipped as in a file.
    """
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(samples.shape)
    return np.clip(np.rint(samples + sigma * noise), 0, 255).astype(np.uint8)


def compress_jpeg(samples: Integers, quality: int) -> Integers:
    """Compress with libjpeg's baseline tables and halved chroma, and decode again.

    Args:
        samples: (H, W, 1 or 3) uint8.
        quality: Quality of libjpeg, 1 to 100.

    Returns:
        (H, W, 1 or 3) uint8.
    """
    file = io.BytesIO()
    gray = samples.shape[2] == 1
    pixels = samples[..., 0] if gray else samples
    subsampling = {} if gray else {"subsampling": "4:2:0"}
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, **subsampling)
    decoded = np.asarray(Image.open(file), np.uint8)
    return decoded.reshape(samples.shape)


def damage(samples: Integers, name: str, index: int) -> Integers:
    """Apply a protocol of `PROTOCOLS` to (H, W, C) uint8, as the file with that index gets it."""
    seed = [list(PROTOCOLS).index(name), index]
    rng = np.random.Generator(np.random.PCG64(seed))
    damaged = PROTOCOLS[name](samples / 255.0, rng)
    return np.clip(np.rint(damaged * 255.0), 0, 255).astype(np.uint8)


def rain(clean: Doubles, rng: np.random.Generator) -> Doubles:
    """Add two layers of gray streaks, 15 to 35 pixels long."""
    lean = rng.uniform(-0.4, 0.4)
    light = np.zeros(clean.shape[:2])
    for _ in range(2):
        length, width = rng.uniform(15.0, 35.0), rng.uniform(0.5, 0.9)
        drops = (rng.random(light.shape) < 0.22 / (length * width * 2.5)) * rng.random(light.shape)
        light += convolve(drops[..., None], _stroke(lean, length, width))[..., 0]
    return clean + rng.uniform(0.35, 0.6) * np.maximum(light, 0.0)[..., None]


def haze(clean: Doubles, rng: np.random.Generator) -> Doubles:
    """Add scattering over ground up to a horizon, with smooth clouds and white or gray light."""
    height, width = clean.shape[:2]
    ground = np.linspace(1.0, 0.1, height)[:, None] ** rng.uniform(0.7, 1.5)
    depth = 0.75 * ground + 0.5 * _clouds((height, width), rng)
    transmission = np.exp(-rng.uniform(0.6, 1.6) * depth)[..., None]
    airlight = rng.uniform(0.8, 1.0)
    return clean * transmission + airlight * (1.0 - transmission)


def low_light(clean: Doubles, rng: np.random.Generator) -> Doubles:
    """Reduce the exposure to 0.05 to 0.15 in linear light; add little shot and read noise."""
    light = clean**GAMMA * rng.uniform(0.05, 0.15)
    noise = rng.standard_normal(clean.shape) * np.sqrt(2e-5 * light + 1e-8)
    return np.asarray(np.maximum(light + noise, 0.0) ** (1.0 / GAMMA), np.float64)


def blur(clean: Doubles, rng: np.random.Generator) -> Doubles:
    """Blur along the path of a shaking hand, 9 to 25 pixels wide; add noise of sigma 1."""
    heading = rng.uniform(0.0, 2.0 * math.pi)
    angles = heading + np.cumsum(rng.uniform(0.0, 0.25) * rng.standard_normal(128))
    path = np.cumsum(np.stack([np.sin(angles), np.cos(angles)], 1), 0)
    path -= path.mean(0)
    path *= rng.uniform(4.5, 12.5) / np.abs(path).max()
    places = np.arange(KERNEL) - KERNEL // 2
    weights = np.maximum(1.0 - np.abs(path[..., None] - places), 0.0)  # (128, 2, KERNEL)
    kernel = weights[:, 0].T @ weights[:, 1]
    return convolve(clean, kernel / kernel.sum()) + rng.standard_normal(clean.shape) / 255.0


def snow(clean: Doubles, rng: np.random.Generator) -> Doubles:
    """Add round flakes of three sizes, stretched by wind, and a light veil."""
    wind = rng.uniform(-1.0, 1.0)
    cover = np.zeros(clean.shape[:2])
    for radius, density in ((0.7, 3e-3), (1.4, 1.2e-3), (2.6, 4e-4)):
        flakes = (rng.random(cover.shape) < density) * rng.uniform(0.4, 1.0, cover.shape)
        kernel = _stroke(wind, rng.uniform(1.0, 3.0) * radius, radius)
        cover = np.maximum(cover, convolve(flakes[..., None], kernel)[..., 0])
    veil = rng.uniform(0.0, 0.15)
    cover = np.clip(cover + veil, 0.0, 0.95)[..., None]
    return clean * (1.0 - cover) + rng.uniform(0.85, 1.0) * cover


PROTOCOLS: Mapping[str, DamageProtocol] = MappingProxyType(
    {"rain": rain, "haze": haze, "lowlight": low_light, "blur": blur, "snow": snow}
)
"""Damage by name, which is also the name of the task. The order determines the seeds."""


def convolve(image: Doubles, kernel: Doubles) -> Doubles:
    """Convolve every channel of (H, W, C) with a square odd kernel; borders mirrored."""
    half = kernel.shape[0] // 2
    padded = np.pad(image, ((half, half), (half, half), (0, 0)), mode="symmetric")
    size = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, s=size)[..., None]
    full = np.fft.irfft2(spectrum, s=size, axes=(0, 1))
    return np.asarray(full[2 * half :, 2 * half :], np.float64)


def _stroke(angle: float, length: float, width: float) -> Doubles:
    """Return a soft line (KERNEL, KERNEL), at most 1; `angle` from the vertical, `width` sigma."""
    axis = np.arange(KERNEL) - KERNEL // 2
    y, x = axis[:, None], axis[None, :]
    along, across = y * np.cos(angle) + x * np.sin(angle), x * np.cos(angle) - y * np.sin(angle)
    over = np.maximum(np.abs(along) - length / 2.0, 0.0)
    stroke = np.exp(-0.5 * (over**2 + across**2) / width**2)
    return np.asarray(stroke, np.float64)


def _clouds(size: tuple[int, int], rng: np.random.Generator) -> Doubles:
    """Return smooth random values (H, W) in [0, 1]: a few waves of random direction."""
    y, x = (np.linspace(0.0, 1.0, length) for length in size)
    field = np.zeros(size)
    for _ in range(6):
        angle, pace, phase = rng.uniform(0.0, 2.0 * math.pi, 3)
        waves = pace * (y[:, None] * np.sin(angle) + x[None, :] * np.cos(angle))
        field += np.cos(waves + phase)
    return np.asarray(0.5 + field / 12.0, np.float64)
