"""Rendered rooms: pale walls, windows that clip, dark furniture, with depth and linear light.

Photographs to train on show few rooms, and nobody knows how deep they are. A plain renderer of
boxes gives both: what counts for tone is how light and depth are spread, not how real it looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from varfix.engine.train.degradations.random_draws import chance
from varfix.engine.train.scenes.camera import number
from varfix.engine.train.scenes.panoramas import rays

Floats = NDArray[np.float32]
Grid = NDArray[np.intp]

EYE = (1.0, 1.8)
"""Height of the camera above the floor, in meters."""


@dataclass(frozen=True)
class Hit:
    """What every ray (side, side) meets.

    Attributes:
        distance: in meters.
        box: number of the box; 0 is the room itself.
        axis: normal of the face: 0, 1, 2 for x, y, z.
        point: (side, side, 3), where.
    """

    distance: Floats
    box: Grid
    axis: Grid
    point: Floats


def render_room(
    side: int, surfaces: list[NDArray[np.uint8]], rng: torch.Generator
) -> tuple[Floats, Floats]:
    """A random room: linear light (side, side, 3) and depth (side, side) in meters.

    Args:
        side: of the image in pixels.
        surfaces: images (h, w, 3) to hang on walls and lay on floors.
        rng: decides on all of it.
    """
    room = _room(rng)
    boxes = np.stack([room, *_furniture(room, rng)])
    camera = (
        number(0.05, 1.5, rng),
        number(-0.4, 0.05, rng),
        math.radians(number(50.0, 85.0, rng)),
        0.75,
    )
    hit = _trace(side, camera, boxes)
    colors = _colors(len(boxes), rng)
    albedo = colors[hit.box, hit.axis]
    albedo = _floors(albedo, hit, room, rng)
    albedo = _posters(albedo, hit, room, surfaces, rng)
    light = albedo * _lighting(hit, room, rng)
    light = _windows(light, hit, room, rng)
    return np.maximum(light, 0.0).astype(np.float32), hit.distance


def _room(rng: torch.Generator) -> Floats:
    """Corners (2, 3) of a room; the camera stands in the origin, near the first corner."""
    eye = number(*EYE, rng)
    low = [-number(0.4, 2.0, rng), -eye, -number(0.4, 2.0, rng)]
    high = [number(1.8, 6.0, rng), number(2.3, 3.4, rng) - eye, number(1.8, 7.0, rng)]
    return np.array([low, high], np.float32)


def _furniture(room: Floats, rng: torch.Generator) -> list[Floats]:
    """Boxes on the floor and at the walls, none around the camera."""
    boxes = []
    for _ in range(int(torch.randint(6, 18, (), generator=rng))):
        wide, deep = number(0.15, 1.8, rng), number(0.15, 1.0, rng)
        tall = number(0.3, 1.1, rng) if chance(0.7, rng) else number(1.1, 2.2, rng)
        x = number(room[0, 0], room[1, 0] - wide, rng) if room[1, 0] - room[0, 0] > wide else 0.0
        z = number(room[0, 2], room[1, 2] - deep, rng) if room[1, 2] - room[0, 2] > deep else 0.0
        floor = room[0, 1] + (0.0 if chance(0.8, rng) else number(0.4, 1.6, rng))
        box = np.array([[x, floor, z], [x + wide, floor + tall, z + deep]], np.float32)
        if (box[0, [0, 2]] > 0.5).any():
            boxes.append(box)
    return boxes


def _trace(side: int, camera: tuple[float, float, float, float], boxes: Floats) -> Hit:
    direction = np.stack(rays(side, camera), -1)
    inverse = 1.0 / np.where(np.abs(direction) < 1e-6, 1e-6, direction)
    near = np.minimum(boxes[:, 0, None, None] * inverse, boxes[:, 1, None, None] * inverse)
    far = np.maximum(boxes[:, 0, None, None] * inverse, boxes[:, 1, None, None] * inverse)
    enter, leave = near.max(-1), far.min(-1)
    met = np.where((enter < leave) & (enter > 0.0), enter, np.inf)
    met[0] = leave[0]  # the room is seen from inside
    box = met.argmin(0)
    distance = met.min(0)
    rows, columns = np.indices(box.shape)
    axis = np.where(box == 0, far[0].argmin(-1), near[box, rows, columns].argmax(-1))
    point = direction * distance[..., None]
    length = np.sqrt((point * point).sum(-1))
    return Hit(length.astype(np.float32), box, axis, point.astype(np.float32))


def _colors(count: int, rng: torch.Generator) -> Floats:
    """Albedo (count, 3, 3) of the faces of every box; walls are mostly pale."""
    shade = torch.rand(count, 1, 1, generator=rng).numpy() ** 1.6 * 0.7 + 0.015
    tint = torch.randn(count, 1, 3, generator=rng).numpy() * number(0.03, 0.35, rng)
    warm = np.array([0.25, 0.0, -0.3]) * torch.rand(count, 1, 1, generator=rng).numpy()
    colors = np.clip(shade * np.exp(tint + warm), 0.01, 0.92).repeat(3, 1)
    if chance(0.75, rng):
        colors[0] = number(0.45, 0.88, rng) * (1.0 + 0.05 * torch.randn(3, generator=rng).numpy())
    colors[0, 1] = number(0.6, 0.9, rng)  # ceilings; floors follow
    return colors.astype(np.float32)


def _floors(albedo: Floats, hit: Hit, room: Floats, rng: torch.Generator) -> Floats:
    """Lay tiles, boards or carpet on the floor."""
    floor = (hit.box == 0) & (hit.axis == 1) & (hit.point[..., 1] < 0.0)
    color = number(0.03, 0.7, rng) * np.exp(
        np.array([0.35, 0.0, -0.45]) * number(0.0, 1.0, rng)
    ).astype(np.float32)
    size = number(0.1, 0.6, rng)
    u, v = hit.point[..., 0] / size, hit.point[..., 2] / (size * number(1.0, 5.0, rng))
    checks = (np.floor(u) * 12.9898 + np.floor(v) * 78.233) % 1.0
    joints = (u % 1.0 < 0.05) | (v % 1.0 < 0.05)
    laid = color * (0.75 + number(0.0, 0.5, rng) * checks[..., None])
    laid = np.where(joints[..., None], laid * number(0.5, 1.1, rng), laid)
    return np.where(floor[..., None], np.clip(laid, 0.01, 0.9), albedo).astype(np.float32)


def _posters(
    albedo: Floats,
    hit: Hit,
    room: Floats,
    surfaces: list[NDArray[np.uint8]],
    rng: torch.Generator,
) -> Floats:
    """Hang images on some walls and fronts, so that there is texture of the world's kind."""
    for image in surfaces:
        axis = 0 if chance(0.5, rng) else 2
        along = 2 - axis
        sign = 1.0 if chance(0.5, rng) else -1.0
        width, height = number(0.3, 2.5, rng), number(0.3, 1.6, rng)
        left = number(room[0, along], room[1, along] - 0.2, rng)
        bottom = number(-0.9, 0.6, rng)
        u = (hit.point[..., along] - left) / width
        v = 1.0 - (hit.point[..., 1] - bottom) / height
        inside = (u >= 0) & (u < 1) & (v >= 0) & (v < 1) & (hit.axis == axis)
        inside &= np.sign(hit.point[..., axis]) == sign
        tall, wide = image.shape[:2]
        texel = image[
            np.clip((v * tall).astype(np.intp), 0, tall - 1),
            np.clip((u * wide).astype(np.intp), 0, wide - 1),
        ]
        albedo = np.where(inside[..., None], 0.9 * (texel / 255.0) ** 2.2 + 0.01, albedo)
    return albedo.astype(np.float32)


def _lighting(hit: Hit, room: Floats, rng: torch.Generator) -> Floats:
    """Light (side, side, 3) that falls on surfaces: lamps, and what walls throw back."""
    light: Floats = np.full(hit.distance.shape, number(0.02, 0.25, rng), np.float32)
    for _ in range(int(torch.randint(1, 4, (), generator=rng))):
        where = np.array([number(room[0, i], room[1, i], rng) for i in range(3)], np.float32)
        where[1] = number(0.2, max(0.3, float(room[1, 1]) - 0.1), rng)
        way = where - hit.point
        square = (way * way).sum(-1) + 0.15
        facing = np.abs(np.take_along_axis(way, hit.axis[..., None], -1)[..., 0]) / np.sqrt(square)
        light += number(0.3, 2.5, rng) * facing / square
    corner = np.minimum(hit.point - room[0], room[1] - hit.point)
    nearest = np.sort(corner, -1)[..., 1]
    light *= (1.0 - 0.7 * np.exp(-nearest / 0.3)).astype(np.float32)
    warmth = np.exp(np.array([0.22, 0.0, -0.35]) * number(-0.4, 1.0, rng))
    return (light[..., None] * warmth).astype(np.float32)


def _windows(light: Floats, hit: Hit, room: Floats, rng: torch.Generator) -> Floats:
    """Windows in walls, with frames or blinds, and lamps in the ceiling: brighter than all else."""
    for _ in range(int(torch.randint(0, 4, (), generator=rng))):
        axis = 0 if chance(0.5, rng) else 2
        along = 2 - axis
        sign = 1.0 if chance(0.5, rng) else -1.0
        width, height = number(0.5, 2.5, rng), number(0.6, 1.9, rng)
        left, bottom = number(room[0, along], room[1, along], rng), number(-0.9, 0.3, rng)
        u, v = (hit.point[..., along] - left) / width, (hit.point[..., 1] - bottom) / height
        inside = (u >= 0) & (u < 1) & (v >= 0) & (v < 1) & (hit.axis == axis) & (hit.box == 0)
        inside &= np.sign(hit.point[..., axis]) == sign
        sky = number(1.0, 14.0, rng) * np.array([0.9, 1.0, 1.15], np.float32)
        bars = _bars(u, v, rng)
        light = np.where(inside[..., None], sky * bars[..., None] + 0.02, light)
    ceiling = (hit.axis == 1) & (hit.point[..., 1] > 0) & (hit.box == 0)
    if chance(0.5, rng):
        size = number(0.8, 2.0, rng)
        round_lamp = (hit.point[..., 0] % size - size / 2) ** 2 + (
            hit.point[..., 2] % size - size / 2
        ) ** 2 < number(0.02, 0.15, rng) ** 2
        light = np.where((ceiling & round_lamp)[..., None], number(3.0, 30.0, rng), light)
    return np.asarray(cv2.GaussianBlur(light.astype(np.float32), (3, 3), 0.6), np.float32)


def _bars(u: Floats, v: Floats, rng: torch.Generator) -> Floats:
    """How much a window lets through: panes, or blinds."""
    if chance(0.4, rng):
        slats = (v * number(10.0, 40.0, rng)) % 1.0
        return np.where(slats < number(0.2, 0.7, rng), number(0.1, 0.6, rng), 1.0)
    panes = int(torch.randint(1, 5, (), generator=rng))
    frame = np.minimum((u * panes) % 1.0, (v * panes) % 1.0) < 0.06
    outside = 0.5 + 0.5 * np.clip(v * number(0.5, 3.0, rng), 0.0, 1.0)
    return np.where(frame, number(0.05, 0.5, rng), outside)
