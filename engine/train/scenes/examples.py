"""Scenes for the judge, and what is done to them: one example at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.train.data.photos import Photos
from varfix.engine.train.degradations.exposure import low_light
from varfix.engine.train.degradations.haze import haze as plain_haze
from varfix.engine.train.degradations.mix import DEGRADATIONS, Degradation
from varfix.engine.train.degradations.random_draws import chance, integer
from varfix.engine.train.scenes.camera import (
    beyond,
    developed,
    fused,
    good_gain,
    luma_of,
    number,
    under_exposed,
)
from varfix.engine.train.scenes.haze import haze
from varfix.engine.train.scenes.panoramas import Panoramas
from varfix.engine.train.scenes.patterns import render_pattern
from varfix.engine.train.scenes.rooms import render_room

Floats = NDArray[np.float32]

ROOM_SIDE = 192
ROOMS = 400
"""Rooms are rendered once each: that takes longer than all the rest."""

SOURCES: Mapping[str, tuple[float, float, float, float]] = MappingProxyType(
    {
        "haze": (0.56, 0.0, 0.2, 0.24),
        "lowlight": (0.45, 0.0, 0.37, 0.18),
        "identity": (0.52, 0.28, 0.1, 0.1),
        "other": (0.72, 0.16, 0.07, 0.05),
    }
)
"""Shares of photographs, patterns, panoramas and rooms, by what is done to them."""

DARKEST_TARGET = 0.25
"""Mean brightness below which a photograph is no example of a good exposure."""

DARK_CHANNEL = 0.06
"""A whole scene without haze holds something darker in some color (He et al. 2009). What does not,
a flower before a pale ground, looks hazy itself, and taught the judge to leave haze."""

PLAIN_HAZE = 0.35
PLAIN_DARK = 0.45
"""Shares of photographs whose haze or darkness is that of the restorer's training: one law for the
whole image. Without them the judge corrected such images 3 to 6 dB worse than the heads did."""

TRIES = 6
"""How many cuts are looked at for one that is fit."""

PLAIN: Mapping[str, float] = MappingProxyType(
    {"noise": 0.012, "rain": 0.012, "haze": 0.03, "lowlight": 0.07, "blur": 0.01, "snow": 0.012}
)
"""Root mean square of a change below which nobody can tell whether it is there."""


@dataclass(frozen=True)
class Scene:
    """A good image and what is known of it.

    Attributes:
        image: (side, side, 3) in [0, 1].
        light: the same as linear light, where it is known beyond white.
        depth: (side, side), where it is known.
        sharp: whether it is as sharp as a photograph at native size.
        photo: whether it is a photograph.
    """

    image: Floats
    light: Floats | None = None
    depth: Floats | None = None
    sharp: bool = True
    photo: bool = False


@dataclass
class Example:
    """What was done to a scene.

    Attributes:
        image: (side, side, 3) in [0, 1], degraded.
        target: (side, side, 3), good.
        applied: (6,), 1 where a kind was applied.
        present: (6,), the same, -1 where nobody could tell.
        strength: (6,), root mean square of the change by each kind.
    """

    image: Floats
    target: Floats
    applied: Floats = field(default_factory=lambda: np.zeros(len(KINDS), np.float32))
    present: Floats = field(default_factory=lambda: np.zeros(len(KINDS), np.float32))
    strength: Floats = field(default_factory=lambda: np.zeros(len(KINDS), np.float32))

    def mark(self, kind: str, before: Floats, after: Floats) -> None:
        """Note that a kind turned one image into another."""
        i = KINDS.index(kind)
        change = float(np.sqrt(np.mean((after - before) ** 2)))
        self.applied[i] = 1.0
        self.present[i] = 1.0 if change >= PLAIN[kind] else -1.0
        self.strength[i] = max(self.strength[i], change)

    def doubt(self, kind: str) -> None:
        """Note that nobody knows whether a kind is there, unless it was applied."""
        i = KINDS.index(kind)
        if self.present[i] == 0.0:
            self.present[i] = -1.0


class Scenes:
    """Photographs, patterns, panoramas and rooms."""

    def __init__(self, photos: Photos, panoramas: Panoramas) -> None:
        self.photos, self.panoramas = photos, panoramas
        self._room = lru_cache(ROOMS)(self._render)

    def draw(self, name: str, side: int, rng: torch.Generator) -> Scene:
        """A scene for a degradation.

        Args:
            name: a key of `SOURCES`.
            side: of the image in pixels.
            rng: decides on all of it.
        """
        shares = torch.tensor(SOURCES[name])
        kind = int(torch.multinomial(shares, 1, generator=rng))
        if kind == 2 and len(self.panoramas):
            return _developed(self.panoramas.view(side, rng), None, rng)
        if kind == 3:
            light, depth = self._room(integer(0, ROOMS, rng))
            flip = slice(None, None, -1 if chance(0.5, rng) else 1)
            return _developed(light[:, flip].astype(np.float32), depth[:, flip], rng)
        image = self._photo(side, name, rng)
        if kind == 1:
            return Scene(render_pattern(image, rng))
        return Scene(image, sharp=self.sharp, photo=True)

    def _render(self, number_of_room: int) -> tuple[Floats, Floats]:
        rng = torch.Generator().manual_seed(7_000_003 + number_of_room)
        surfaces = [
            np.asarray(self.photos.images[integer(0, len(self.photos), rng)]) for _ in range(4)
        ]
        return render_room(ROOM_SIDE, surfaces, rng)

    def _photo(self, side: int, name: str, rng: torch.Generator) -> Floats:
        """A random cut of a random photograph, enlarged a little now and then."""
        self.sharp = True
        inner = side
        if chance(0.2, rng) and side > 200:
            inner, self.sharp = round(side / number(1.1, 1.7, rng)), False
        for _ in range(TRIES):
            cut = self.photos.batch(1, inner, rng)[0].permute(1, 2, 0).numpy()
            if _is_fit(cut, name):
                break
        if inner != side:
            cut = np.asarray(cv2.resize(cut, (side, side), interpolation=cv2.INTER_CUBIC))
        if name == "lowlight":
            mean = float(luma_of(cut).mean())
            if mean < 0.42 and chance(0.7, rng):
                cut = np.clip(cut, 1e-4, 1.0) ** np.float32(np.log(0.42) / np.log(mean))
        return np.ascontiguousarray(np.clip(cut, 0.0, 1.0), np.float32)


def _is_fit(image: Floats, name: str) -> bool:
    """Whether an image is an example of what a degradation should be turned back into."""
    if name == "lowlight":
        return float(luma_of(image).mean()) > DARKEST_TARGET
    if name == "haze":
        small = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
        return float(np.quantile(small.min(axis=2), 0.03)) < DARK_CHANNEL
    return True


def _developed(light: Floats, depth: Floats | None, rng: torch.Generator) -> Scene:
    light = np.ascontiguousarray(light * np.float32(good_gain(light)))
    image = developed(light * np.float32(2.0 ** number(-0.4, 0.7, rng)), rng)
    depth = None if depth is None else np.ascontiguousarray(depth)
    return Scene(image, light, depth, sharp=False)


def make_example(scenes: Scenes, name: str, side: int, rng: torch.Generator) -> Example:
    """Draw a scene and degrade it, as `name` of `DEGRADATIONS` says, then save it as a file."""
    steps = name.split("+")
    source = next((s for s in steps if s in SOURCES), "other")
    scene = scenes.draw(source, side, rng)
    example = _begin(scene, steps, rng)
    for step in steps:
        _apply(example, scene, step, rng)
    if not scene.sharp:
        example.doubt("blur")
    _save(example, rng)
    return example


def _begin(scene: Scene, steps: list[str], rng: torch.Generator) -> Example:
    image = scene.image
    if "lowlight" in steps and scene.light is not None:
        image = image + np.float32(number(0.35, 1.0, rng)) * (fused(scene.light, 1.0) - image)
    elif steps == ["identity"] and scene.photo and chance(0.4, rng):
        image = _another_mood(image, rng)
    return Example(image, image)


def _another_mood(image: Floats, rng: torch.Generator) -> Floats:
    """A good image of another kind: high key, dusk, muted or warm. Black stays black."""
    image = image ** np.float32(np.exp(number(np.log(0.55), np.log(1.7), rng)))
    gray = luma_of(image)[..., None]
    image = gray + np.float32(number(0.3, 1.25, rng)) * (image - gray)
    warm = number(-0.06, 0.06, rng)
    gains = np.array([1.0 + warm, 1.0, 1.0 - warm]) * number(0.7, 1.05, rng)
    return np.clip(image * gains, 0.0, 1.0).astype(np.float32)


def _apply(example: Example, scene: Scene, step: str, rng: torch.Generator) -> None:
    if step == "identity":
        return
    before = example.image
    if step == "haze":
        depth = None if scene.depth is None else _planes(scene.depth[..., None])
        plain = scene.photo and chance(PLAIN_HAZE, rng)
        after = _array(
            plain_haze(_planes(before), rng) if plain else haze(_planes(before), rng, depth)
        )
        kind = "haze"
    elif step == "lowlight":
        after, kind = _darkened(before, scene, rng), "lowlight"
        example.doubt("noise")
    else:
        operation: Degradation = DEGRADATIONS[step if step in DEGRADATIONS else "camera"][0][0]
        after = _array(operation(_planes(before), rng))
        kind = DEGRADATIONS[step][1] if step in DEGRADATIONS else "noise"
    example.mark(kind, before, after)
    example.image = after


def _darkened(image: Floats, scene: Scene, rng: torch.Generator) -> Floats:
    if scene.light is not None:
        return under_exposed(scene.light, 1.0, rng)
    if chance(PLAIN_DARK, rng):
        return _array(low_light(_planes(image), rng))
    return under_exposed(beyond(image, rng), 1.0, rng)


def _save(example: Example, rng: torch.Generator) -> None:
    """Round to 8 bits; half of the files are JPEG."""
    small = (np.clip(example.image, 0.0, 1.0) * 255.0).round().astype(np.uint8)
    if chance(0.5, rng):
        quality = round(100.0 - 70.0 * number(0.0, 1.0, rng) ** 1.7)
        _, data = cv2.imencode(
            ".jpg", np.ascontiguousarray(small[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, quality]
        )
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        small = np.asarray(decoded, np.uint8)[..., ::-1]
        if quality < 60:
            example.doubt("noise")
    example.image = small.astype(np.float32) / np.float32(255.0)


def _planes(image: Floats) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].float()


def _array(planes: Tensor) -> Floats:
    image: Floats = planes[0].permute(1, 2, 0).clamp(0.0, 1.0).numpy()
    return image
