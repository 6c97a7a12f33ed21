"""Rendered hard negatives: good images of bars, slats, windows, fur, gravel and text.

They look like streaks, grain or blocks to whoever judges by texture, and nothing is wrong with
them. Photographs to train on show too few.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from varfix.engine.train.degradations.random_draws import chance
from varfix.engine.train.scenes.camera import number

Floats = NDArray[np.float32]
Pattern = Callable[[Floats, torch.Generator], Floats]

WORDS = (
    "THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG 0123456789",
    "sphinx of black quartz, judge my vow; pack my box with five dozen",
    "Departures 14:05 15:30 17:45 Platform 3 Exit A-B Open 9-18",
)


def render_pattern(ground: Floats, rng: torch.Generator) -> Floats:
    """A random pattern over or instead of an image (side, side, 3) in [0, 1], of the same size."""
    choice = PATTERNS[int(torch.randint(len(PATTERNS), (), generator=rng))]
    return np.clip(choice(ground, rng), 0.0, 1.0).astype(np.float32)


def _color(rng: torch.Generator) -> Floats:
    shade = number(0.03, 0.97, rng)
    tint = torch.randn(3, generator=rng).numpy() * number(0.0, 0.12, rng)
    return np.clip(shade + tint, 0.0, 1.0).astype(np.float32)


def _noise(side: int, rng: torch.Generator) -> Floats:
    return torch.randn((side, side), generator=rng).numpy()


def _shade(side: int, rng: torch.Generator) -> Floats:
    """Uneven light (side, side, 1) around one."""
    field = cv2.resize(torch.rand(3, 3, generator=rng).numpy(), (side, side))
    return (0.75 + 0.5 * field)[..., None].astype(np.float32)


def bars(ground: Floats, rng: torch.Generator) -> Floats:
    """Fences, gratings, blinds, columns: parallel bars before the image, with a lit side."""
    side = ground.shape[0]
    angle = (0.5 * math.pi if chance(0.3, rng) else 0.0) + 0.12 * float(
        torch.randn((), generator=rng)
    )
    if chance(0.15, rng):
        angle = number(0.0, math.pi, rng)
    rows, columns = np.mgrid[:side, :side].astype(np.float32)
    across = columns * math.cos(angle) + rows * math.sin(angle)
    across = across * (1.0 + number(-0.3, 0.3, rng) * rows / side)
    period = math.exp(number(math.log(3.0), math.log(40.0), rng))
    phase = (across / period) % 1.0
    width = number(0.15, 0.7, rng)
    edge = 0.7 / period
    cover = np.clip((width - phase) / edge, 0.0, 1.0) * np.clip(phase / edge, 0.0, 1.0)
    lit = 1.0 + number(-0.6, 0.6, rng) * (phase / width - 0.5)
    bar = _color(rng) * lit[..., None] * _shade(side, rng)
    if chance(0.4, rng):
        ground = np.broadcast_to(_color(rng) * _shade(side, rng), ground.shape)
    return np.asarray(ground + cover[..., None] * (bar - ground), np.float32)


def facade(ground: Floats, rng: torch.Generator) -> Floats:
    """A front of windows in perspective, the image mirrored in some of them."""
    side = ground.shape[0]
    rows, columns = np.mgrid[:side, :side].astype(np.float32) / side
    tilt, turn = number(-0.5, 0.5, rng), number(-0.5, 0.5, rng)
    depth = 1.0 + tilt * rows + turn * columns
    u, v = columns / depth, rows / depth
    count = number(4.0, 24.0, rng)
    across, down = u * count, v * count * number(0.4, 1.6, rng)
    wide, tall = number(0.35, 0.85, rng), number(0.35, 0.85, rng)
    pane = ((across % 1.0) < wide) & ((down % 1.0) < tall)
    which = np.sin(np.floor(across) * 12.9898 + np.floor(down) * 78.233) * 43758.5453 % 1.0
    wall = _color(rng) * _shade(side, rng)
    courses = 1.0 - number(0.0, 0.25, rng) * ((down * number(2.0, 9.0, rng)) % 1.0 < 0.2)
    wall = wall * courses[..., None]
    glass = 0.25 * _color(rng) + number(0.1, 0.8, rng) * ground * which[..., None]
    if chance(0.2, rng):  # at night: some rooms are lit
        wall = wall * 0.12
        glass = np.where(which[..., None] > 0.6, np.array([0.95, 0.8, 0.5]), 0.05 * glass)
    return np.where(pane[..., None], glass, wall).astype(np.float32)


def fur(ground: Floats, rng: torch.Generator) -> Floats:
    """Hair, grass, straw: fine strokes in nearly one direction."""
    side = ground.shape[0]
    length = int(torch.randint(9, 41, (), generator=rng))
    angle = number(0.0, math.pi, rng)
    strokes = np.zeros((side, side), np.float32)
    for _ in range(3):
        turn = angle + 0.25 * float(torch.randn((), generator=rng))
        kernel = np.zeros((length, length), np.float32)
        middle, reach = (length - 1) / 2.0, (length - 1) / 2.0
        dx, dy = reach * math.cos(turn), reach * math.sin(turn)
        cv2.line(
            kernel,
            (round(middle - dx), round(middle - dy)),
            (round(middle + dx), round(middle + dy)),
            1.0,
        )
        strokes += cv2.filter2D(_noise(side, rng), -1, kernel / math.sqrt(kernel.sum() + 1e-6))
    strength = number(0.05, 0.3, rng)
    base = cv2.GaussianBlur(np.ascontiguousarray(ground), (0, 0), number(2.0, 12.0, rng))
    if chance(0.4, rng):
        base = np.broadcast_to(_color(rng) * _shade(side, rng), ground.shape)
    return np.asarray(base * (1.0 + strength * strokes[..., None]), np.float32)


def gravel(ground: Floats, rng: torch.Generator) -> Floats:
    """Gravel, foliage, plaster: grain of one size, lit from one side."""
    side = ground.shape[0]
    size = math.exp(number(math.log(1.0), math.log(6.0), rng))
    height = cv2.GaussianBlur(_noise(side, rng), (0, 0), size) * size
    if chance(0.5, rng):
        height = np.abs(height)
    lit = number(0.0, 2.0 * math.pi, rng)
    relief = math.cos(lit) * cv2.Sobel(height, -1, 1, 0) + math.sin(lit) * cv2.Sobel(
        height, -1, 0, 1
    )
    relief = relief / (float(relief.std()) + 1e-6)
    base = cv2.GaussianBlur(np.ascontiguousarray(ground), (0, 0), number(3.0, 20.0, rng))
    if chance(0.5, rng):
        base = np.broadcast_to(_color(rng) * _shade(side, rng), ground.shape)
    tint = 1.0 + 0.1 * np.sign(height)[..., None] * torch.randn(3, generator=rng).numpy()
    return np.asarray(base * tint * (1.0 + number(0.08, 0.4, rng) * relief[..., None]), np.float32)


def text(ground: Floats, rng: torch.Generator) -> Floats:
    """A page, a sign, a table: lines of letters on paper or over the image."""
    side = ground.shape[0]
    paper = _color(rng) * _shade(side, rng) if chance(0.7, rng) else ground
    page = np.ascontiguousarray(np.clip(paper, 0.0, 1.0) * 255.0).astype(np.uint8)
    dark = float(page.mean()) > 128.0
    ink = [number(0.0, 64.0, rng) if dark else number(190.0, 255.0, rng)] * 3
    scale = number(0.25, 1.1, rng)
    step = max(8, int(30 * scale))
    for i, top in enumerate(range(step, side, step)):
        words = WORDS[i % len(WORDS)]
        start = int(torch.randint(len(words), (), generator=rng))
        thickness = 2 if scale > 0.7 else 1
        cv2.putText(page, words[start:] + words, (4, top), 0, scale, ink, thickness, cv2.LINE_AA)
    return (page / 255.0).astype(np.float32)


def night(ground: Floats, rng: torch.Generator) -> Floats:
    """A night that stays dark: the image hardly lit, with lamps, stars or lit windows in it."""
    side = ground.shape[0]
    dark = ground ** number(1.3, 2.2, rng) * number(0.05, 0.35, rng)
    dark = dark * np.exp(np.array([-0.3, -0.1, 0.3]) * number(-0.5, 1.0, rng))
    image = np.ascontiguousarray(dark, np.float32)
    lamps = np.zeros_like(image)
    for _ in range(int(torch.randint(4, 60, (), generator=rng))):
        place = (
            int(torch.randint(side, (), generator=rng)),
            int(torch.randint(side, (), generator=rng)),
        )
        color = [1.0, number(0.6, 1.0, rng), number(0.2, 1.0, rng)]
        cv2.circle(lamps, place, int(torch.randint(1, 4, (), generator=rng)), color, -1)
    glow = cv2.GaussianBlur(lamps, (0, 0), number(3.0, 14.0, rng)) * number(0.5, 4.0, rng)
    return np.asarray(np.clip(image + lamps + glow * (0.3 + ground), 0.0, 1.0), np.float32)


PATTERNS: tuple[Pattern, ...] = (bars, bars, facade, facade, fur, gravel, text, night)
