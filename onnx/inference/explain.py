"""Asks a model's graph for what explains its result, and draws it (`varfix image --explain`)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from varfix.engine.errors import ConfigError
from varfix.engine.models.card import TASKS
from varfix.engine.restoration.explanation import (
    Explanation,
    Floats,
    additions,
    prior_parts,
    replacements,
    sheets,
)
from varfix.engine.restoration.prior_maps import sample_prior, thumbnail
from varfix.engine.system.atomic import AtomicWriter
from varfix.onnx.files.card import check_companion, weights_path
from varfix.onnx.files.model_files import ModelFiles, find_model
from varfix.onnx.inference.intermediate_outputs import read_nodes, value_after, with_results
from varfix.onnx.inference.open_model import OnnxRestorer
from varfix.onnx.inference.runtime import CPU, Session, SessionPlan, start
from varfix.onnx.inference.signature import PRIOR, RESTORED, TILE

RESULTS = ("asked", "increments", "scales", "regions")
KINDS: Final = TASKS[1:]
"""What a guided model's evidence is about; the last channels of its prior."""

LATENT: Final = 32
"""Channels of each scale in a guided model's prior; the first ones."""

FUSIONS: Final = {"encoder, 1/8": "eighth", "middle, 1/16": "sixteenth", "decoder, 1/8": "decoder"}
"""Where the prior enters VarFormer-S, and what the weights are called there."""


@dataclass(frozen=True)
class Decisions:
    """Names of values inside a guided model's graph.

    Attributes:
        regions: for each level, (1, 2, h, w): the shares of the image and of the prior.
        scales: for each level, (1, 10, h, w): the weights of the scales.
    """

    regions: tuple[str, ...]
    scales: tuple[str, ...]


def explain(
    model: str, restorer: OnnxRestorer, pixels: Floats, folder: Path, task: str = "auto"
) -> list[Path]:
    """Draw what a model says about an image.

    Args:
        model: registry name or path, as `restorer` was opened.
        restorer: the model, which passed `check_explains`.
        pixels: (H, W, 3) float32 in [0, 1].
        folder: where the images go; made if it is not there.
        task: what guided models are told about the image.

    Returns:
        The files written.

    Raises:
        ModelError: The model's decoder is missing, or another model's.
        OutputError: The folder cannot be written.
    """
    explanation = explanation_of(restorer, find_model(model), pixels, task)
    written = []
    for name, sheet in sheets(explanation).items():
        data = io.BytesIO()
        sheet.save(data, "PNG")
        AtomicWriter().write(folder / name, data.getvalue())
        written.append(folder / name)
    return written


def explanation_of(
    restorer: OnnxRestorer, found: ModelFiles, pixels: Floats, task: str
) -> Explanation:
    """What a model says about an image; arguments as of `explain`, and the model's files."""
    if restorer.card.guidance == "tile":
        return _of_tile(restorer, found, pixels)
    return _guided(restorer, found, pixels, task)


def check_explains(model: str, restorer: OnnxRestorer) -> None:
    """Refuse a model whose graph does not tell how its results come about.

    Args:
        model: registry name or path, as `restorer` was opened.
        restorer: the model.

    Raises:
        ConfigError: It does not.
    """
    card = restorer.card
    if not card.levels and (card.guidance != "image" or find_decisions(find_model(model)) is None):
        raise ConfigError(
            f"{card.name} does not tell how its results come about.",
            hint="--explain is for VarFormers: varformer-s, varformer-d16 and models like them.",
        )


def _of_tile(restorer: OnnxRestorer, found: ModelFiles, pixels: Floats) -> Explanation:
    """What a model with the prior inside says about an image, which it sees at its own size."""
    seen = thumbnail(pixels, restorer.tile)
    check_companion(restorer.card, found.decoder, found.restore)
    decoder = start(found.decoder, SessionPlan(CPU))

    def decode(latent: Floats) -> Floats:
        (drawn,) = decoder.run([RESTORED], {TILE: latent[None]})
        return np.asarray(drawn[0].transpose(1, 2, 0))

    told = {name: value[0] for name, value in restorer.results(RESULTS, seen).items()}
    return Explanation(
        image=seen,
        levels=restorer.card.levels,
        regions=list(told["regions"]),
        scales=told["scales"],
        steps=list(replacements(told["asked"], told["increments"], decode)),
    )


def _guided(restorer: OnnxRestorer, found: ModelFiles, pixels: Floats, task: str) -> Explanation:
    """What a model guided by the whole image says about it, shrunk to about one tile."""
    card = restorer.card
    decisions = find_decisions(found)
    maps = restorer.prior(thumbnail(pixels, card.thumbnail), task)
    assert decisions is not None  # `check_explains` saw them
    assert maps is not None
    names = (*decisions.regions, *decisions.scales)
    session = start(with_results(found.restore.read_bytes(), names), SessionPlan(CPU))
    view = _View(session, fitted(pixels, restorer.tile, card.multiple), card.prior_stride)
    told = dict(zip(names, view.values(names, maps), strict=True))
    parts = prior_parts(card.prior_channels, len(KINDS), LATENT)
    kinds = maps[parts["degradation"]].mean((1, 2)).tolist()
    return Explanation(
        image=view.picture,
        levels=tuple(FUSIONS),
        regions=[told[name][0, 1] for name in decisions.regions],
        scales=np.stack([told[name][0].mean((1, 2)) for name in decisions.scales]),
        steps=list(additions(maps, parts, view.restored)),
        kinds=dict(zip(KINDS, kinds, strict=True)),
    )


@dataclass(frozen=True)
class _View:
    """An image (H, W, 3) in [0, 1], and a guided model's graph that takes all of it as a tile."""

    session: Session
    picture: Floats
    stride: int

    def values(self, names: Sequence[str], maps: Floats) -> list[Floats]:
        """Results of the graph for the maps (C, n, n) of a prior."""
        sides = (self.picture.shape[0], self.picture.shape[1])
        tile = np.ascontiguousarray(self.picture.transpose(2, 0, 1)[None])
        prior = sample_prior(maps, sides, (0, 0), sides, self.stride)[None]
        return self.session.run(names, {TILE: tile, PRIOR: prior})

    def restored(self, maps: Floats) -> Floats:
        """The image restored with such maps, (H, W, 3)."""
        (restored,) = self.values([RESTORED], maps)
        return np.asarray(restored[0].transpose(1, 2, 0))


def find_decisions(found: ModelFiles) -> Decisions | None:
    """Where a graph decides on regions and scales; None if it is not built like VarFormer-S."""
    if weights_path(found.restore).is_file():
        return None
    nodes = read_nodes(found.restore.read_bytes())

    def of(head: str) -> tuple[str, ...]:
        weights = (f"network.fuse_{place}.enhance.{head}.2.weight" for place in FUSIONS.values())
        values = (value_after(nodes, weight, "Softmax") for weight in weights)
        return tuple(value for value in values if value is not None)

    decisions = Decisions(of("region_weights"), of("scale_weights"))
    whole = len(decisions.regions) == len(decisions.scales) == len(FUSIONS)
    return decisions if whole else None


def fitted(pixels: Floats, longest: int, multiple: int) -> Floats:
    """Shrink an image (H, W, 3) so that its sides are multiples and none is above `longest`.

    The aspect ratio changes by as much as that needs; small images grow to the next multiples.
    """
    import cv2

    height, width = pixels.shape[:2]
    scale = min(1.0, longest / max(height, width))
    sides = [
        min(longest, max(multiple, round(side * scale / multiple) * multiple))
        for side in (height, width)
    ]
    size = (sides[1], sides[0])
    shrunk = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.float32)
