"""Views of linear panoramas: scenes whose light is known beyond what a file can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from varfix.engine.train.degradations.random_draws import chance
from varfix.engine.train.scenes.camera import number

Floats = NDArray[np.float32]

BRIGHTEST = 300.0
"""Light, as a multiple of the median, above which the sun is as good as a lamp."""


class Panoramas:
    """Equirectangular panoramas in linear light, (H, 2 H, 3) float32 each."""

    def __init__(self, panoramas: list[Floats]) -> None:
        self.panoramas = panoramas

    def __len__(self) -> int:
        return len(self.panoramas)

    def view(self, side: int, rng: torch.Generator) -> Floats:
        """What a camera there sees, (side, side, 3) linear light, squashed as thumbnails are."""
        which = int(torch.randint(len(self), (), generator=rng))
        panorama = self.panoramas[which]
        yaw = number(-math.pi, math.pi, rng)
        pitch = 0.22 * float(torch.randn((), generator=rng)) + 0.03
        across = math.radians(number(45.0, 95.0, rng))
        rows, columns = places(side, (yaw, pitch, across, number(0.62, 1.0, rng)))
        height, width = panorama.shape[:2]
        seen = cv2.remap(
            panorama,
            (columns * width - 0.5).astype(np.float32),
            (rows * height - 0.5).astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        if chance(0.5, rng):
            seen = np.ascontiguousarray(seen[:, ::-1])
        return _tinted(np.asarray(seen, np.float32), rng)


def places(side: int, camera: tuple[float, float, float, float]) -> tuple[Floats, Floats]:
    """Where the rays of a camera meet the sphere: rows and columns (side, side) in [0, 1].

    Args:
        side: of the image in pixels.
        camera: yaw and pitch in radians, angle of view, and height by width of the view.
    """
    x, y, z = rays(side, camera)
    rows = 0.5 - np.arctan2(y, np.hypot(x, z)) / math.pi
    columns = (np.arctan2(x, z) / (2.0 * math.pi) + 0.5) % 1.0
    return rows.astype(np.float32), columns.astype(np.float32)


def rays(side: int, camera: tuple[float, float, float, float]) -> tuple[Floats, Floats, Floats]:
    """Directions (x to the right, y up, z ahead) of the rays of a camera, (side, side) each."""
    yaw, pitch, across, aspect = camera
    reach = math.tan(across / 2.0)
    line = ((np.arange(side, dtype=np.float32) + 0.5) / side * 2.0 - 1.0) * reach
    x, y = np.meshgrid(line, -line * aspect)
    z = np.ones_like(x)
    y, z = y * math.cos(pitch) + z * math.sin(pitch), z * math.cos(pitch) - y * math.sin(pitch)
    x, z = x * math.cos(yaw) + z * math.sin(yaw), z * math.cos(yaw) - x * math.sin(yaw)
    return x.astype(np.float32), y.astype(np.float32), z.astype(np.float32)


def _tinted(light: Floats, rng: torch.Generator) -> Floats:
    """Another white balance and saturation: there are few panoramas."""
    gains = np.exp(0.06 * torch.randn(3, generator=rng).numpy()).astype(np.float32)
    gray = light.mean(axis=2, keepdims=True)
    light = gray + np.float32(number(0.6, 1.25, rng)) * (light - gray)
    tinted: Floats = np.clip(light * gains, 0.0, BRIGHTEST * float(np.median(gray) + 1e-6))
    return tinted


def load_panoramas(folders: Iterable[Path]) -> Panoramas:
    """Read every `.hdr` below the folders."""
    files = sorted(path for folder in folders for path in folder.rglob("*.hdr"))
    read = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in files)
    return Panoramas(
        [np.ascontiguousarray(p[..., ::-1], np.float32) for p in read if p is not None]
    )
