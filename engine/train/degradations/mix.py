"""The training mix: which degradations the images of a batch get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from varfix.engine.models.card import TASKS
from varfix.engine.train.degradations.blur import motion_blur, slight_blur
from varfix.engine.train.degradations.camera import sensor_noise
from varfix.engine.train.degradations.exposure import jitter_tone, low_light
from varfix.engine.train.degradations.haze import haze
from varfix.engine.train.degradations.noise import camera_noise, gaussian_noise, jpeg, light_jpeg
from varfix.engine.train.degradations.rain_snow import rain, snow, streaks
from varfix.engine.train.degradations.random_draws import uniform

Degradation = Callable[[Tensor, torch.Generator], Tensor]


def identity(clean: Tensor, rng: torch.Generator) -> Tensor:
    """Return the images unchanged."""
    del rng
    return clean


DEGRADATIONS: Mapping[str, tuple[tuple[Degradation, ...], str]] = MappingProxyType(
    {
        "gaussian": ((gaussian_noise,), "noise"),
        "camera": ((sensor_noise, light_jpeg), "noise"),
        "sensor": ((sensor_noise,), "noise"),
        "grain": ((camera_noise,), "noise"),
        "rain": ((rain,), "rain"),
        "streaks": ((streaks,), "rain"),
        "haze": ((haze,), "haze"),
        "lowlight": ((low_light,), "lowlight"),
        "blur": ((motion_blur,), "blur"),
        "slight blur": ((slight_blur,), "blur"),
        "snow": ((snow,), "snow"),
        "jpeg": ((jpeg,), "noise"),
        "rain+haze": ((rain, haze), "auto"),
        "haze+noise": ((haze, sensor_noise), "auto"),
        "lowlight+noise": ((low_light, sensor_noise), "auto"),
        "lowlight+blur": ((motion_blur, low_light), "auto"),
        "blur+noise": ((motion_blur, gaussian_noise), "auto"),
        "identity": ((identity,), "auto"),
    }
)
"""Operations in order, and the task that a user would select, by name."""


@dataclass(frozen=True)
class Mix:
    """Shares of the degradations and of the changes around them.

    Attributes:
        weights: Relative share by name in `DEGRADATIONS`.
        tone_jitter: Share of images whose tone is changed before the degradation.
        jpeg_share: Share of degraded images that are finally compressed as JPEG.
        task_hint_share: Share of images whose task the model receives.
    """

    weights: Mapping[str, float]
    tone_jitter: float = 0.3
    jpeg_share: float = 0.12
    task_hint_share: float = 0.5


@dataclass(frozen=True)
class Degraded:
    """A batch: clean targets and degraded images (B, 3, H, W) in [0, 1], tasks (B,) int64."""

    target: Tensor
    image: Tensor
    task: Tensor
    names: tuple[str, ...]


def degrade(clean: Tensor, mix: Mix, rng: torch.Generator) -> Degraded:
    """Degrade a batch of clean images (B, 3, H, W) in [0, 1], each in its own way.

    Results are rounded to 8 bits, as in files.
    """
    names = _choose(len(clean), mix, rng)
    jittered = uniform((len(clean),), 0.0, 1.0, rng) < mix.tone_jitter
    target = to_eight_bits(
        torch.where(jittered[:, None, None, None], jitter_tone(clean, rng), clean)
    )
    image = torch.empty_like(target)
    for name in sorted(set(names)):
        rows = torch.tensor([i for i, n in enumerate(names) if n == name], device=clean.device)
        image[rows] = _apply(target[rows], name, mix, rng)
    return Degraded(target, to_eight_bits(image), _tasks(names, mix, rng), names)


def _choose(count: int, mix: Mix, rng: torch.Generator) -> tuple[str, ...]:
    names = list(mix.weights)
    shares = torch.tensor([mix.weights[n] for n in names], device=rng.device)
    picks = torch.multinomial(shares, count, replacement=True, generator=rng)
    return tuple(names[i] for i in picks.tolist())


def _apply(target: Tensor, name: str, mix: Mix, rng: torch.Generator) -> Tensor:
    image = target
    for operation in DEGRADATIONS[name][0]:
        image = operation(image, rng).clamp(0.0, 1.0)
    if name in ("identity", "jpeg", "camera"):
        return image
    compressed = uniform((len(image),), 0.0, 1.0, rng) < mix.jpeg_share
    if bool(compressed.any()):
        rounded = to_eight_bits(image[compressed])
        image[compressed] = jpeg(rounded, rng).clamp(0.0, 1.0)
    return image


def _tasks(names: tuple[str, ...], mix: Mix, rng: torch.Generator) -> Tensor:
    """Return task indices: the true task for a share of the images, any for clean images."""
    count = len(names)
    hinted = uniform((count,), 0.0, 1.0, rng) < mix.task_hint_share
    anything = torch.randint(0, len(TASKS), (count,), generator=rng, device=rng.device)
    true = torch.tensor([TASKS.index(DEGRADATIONS[n][1]) for n in names], device=rng.device)
    clean = torch.tensor([n == "identity" for n in names], device=rng.device)
    return torch.where(hinted, torch.where(clean, anything, true), torch.zeros_like(true))


def to_eight_bits(image: Tensor) -> Tensor:
    """Round values in [0, 1] to multiples of 1 / 255."""
    return (image.clamp(0.0, 1.0) * 255.0).round() / 255.0
