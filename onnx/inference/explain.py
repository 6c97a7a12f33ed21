"""Draws explanation images from intermediate outputs of a model (`varfix image --explain`)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from varfix.engine.errors import ConfigError
from varfix.engine.restoration.explanation import (
    Explanation,
    Floats,
    additions,
    prior_parts,
    replacements,
    sheets,
)
from varfix.engine.restoration.findings import KINDS
from varfix.engine.restoration.prior_input import prior_input_of, thumbnail
from varfix.engine.restoration.prior_maps import sample_prior
from varfix.engine.system.atomic import AtomicWriter
from varfix.onnx.files.card import check_companion, weights_path
from varfix.onnx.files.model_files import ModelFiles, find_model
from varfix.onnx.inference.intermediate_outputs import add_outputs, find_output_after, read_nodes
from varfix.onnx.inference.restorer import ModelRestorer
from varfix.onnx.inference.runtime import CPU, Session, SessionPlan, start
from varfix.onnx.inference.signature import PRIOR, RESTORED, TILE

RESULTS = ("asked", "increments", "scales", "regions")
LATENT: Final = 32
"""Channels of each scale in the prior of VarFormer-S; the first ones."""

FUSIONS: Final = {"encoder, 1/8": "eighth", "middle, 1/16": "sixteenth", "decoder, 1/8": "decoder"}
"""Places where VarFormer-S uses the prior, and the names of their weights."""


@dataclass(frozen=True)
class FusionOutputs:
    """Names of intermediate outputs of VarFormer-S.

    Attributes:
        regions: For each level, (1, 2, h, w): weights of the image and of the prior.
        scales: For each level, (1, 10, h, w): weights of the scales.
    """

    regions: tuple[str, ...]
    scales: tuple[str, ...]


def explain(
    model: str, restorer: ModelRestorer, pixels: Floats, folder: Path, task: str = "auto"
) -> list[Path]:
    """Write images that explain the result of a model for an image.

    Args:
        model: Registry name or path of `restorer`.
        restorer: The model, which passed `require_explainable`.
        pixels: (H, W, 3) float32 in [0, 1].
        folder: Folder of the images; created if it is missing.
        task: Task for models with guidance `image`.

    Returns:
        The written files.

    Raises:
        ModelError: The decoder is missing, or belongs to another model.
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
    restorer: ModelRestorer, found: ModelFiles, pixels: Floats, task: str
) -> Explanation:
    """Return the explanation of an image; arguments as for `explain`."""
    if restorer.card.guidance == "tile":
        return _of_tile(restorer, found, pixels)
    return _guided(restorer, found, pixels, task)


def require_explainable(model: str, restorer: ModelRestorer) -> None:
    """Reject a model without outputs for --explain.

    Args:
        model: Registry name or path of `restorer`.
        restorer: The model.

    Raises:
        ConfigError: The model has no such outputs.
    """
    card = restorer.card
    if not card.levels and (
        card.guidance != "image" or find_fusion_outputs(find_model(model)) is None
    ):
        raise ConfigError(
            f"{card.name} has no outputs for --explain",
            hint="use --explain with varformer-s, varformer-d16 or similar models",
        )


def _of_tile(restorer: ModelRestorer, found: ModelFiles, pixels: Floats) -> Explanation:
    """Return the explanation by a model with guidance `tile`, for the image resized to a tile."""
    seen = thumbnail(pixels, restorer.tile)
    check_companion(restorer.card, found.decoder, found.restore)
    decoder = start(found.decoder, SessionPlan(CPU))

    def decode(latent: Floats) -> Floats:
        (drawn,) = decoder.run([RESTORED], {TILE: latent[None]})
        return np.asarray(drawn[0].transpose(1, 2, 0))

    values = {name: value[0] for name, value in restorer.results(RESULTS, seen).items()}
    return Explanation(
        image=seen,
        levels=restorer.card.levels,
        regions=list(values["regions"]),
        scales=values["scales"],
        steps=list(replacements(values["asked"], values["increments"], decode)),
    )


def _guided(restorer: ModelRestorer, found: ModelFiles, pixels: Floats, task: str) -> Explanation:
    """Return the explanation by a model with guidance `image`, for the image at about a tile."""
    card = restorer.card
    decisions = find_fusion_outputs(found)
    maps = restorer.prior(prior_input_of(pixels, card.thumbnail, task))
    assert decisions is not None  # checked by `require_explainable`
    assert maps is not None
    names = (*decisions.regions, *decisions.scales)
    session = start(add_outputs(found.restore.read_bytes(), names), SessionPlan(CPU))
    view = _View(session, fitted(pixels, restorer.tile, card.multiple), card.prior_stride)
    values = dict(zip(names, view.values(names, maps), strict=True))
    parts = prior_parts(card.prior_channels, len(KINDS), LATENT)
    kinds = maps[parts["degradation"]].mean((1, 2)).tolist()
    return Explanation(
        image=view.image,
        levels=tuple(FUSIONS),
        regions=[values[name][0, 1] for name in decisions.regions],
        scales=np.stack([values[name][0].mean((1, 2)) for name in decisions.scales]),
        steps=list(additions(maps, parts, view.restored)),
        kinds=dict(zip(KINDS, kinds, strict=True)),
    )


@dataclass(frozen=True)
class _View:
    """An image (H, W, 3) in [0, 1] as a single tile of a graph."""

    session: Session
    image: Floats
    stride: int

    def values(self, names: Sequence[str], maps: Floats) -> list[Floats]:
        """Return outputs of the graph for prior maps (C, n, n)."""
        sides = (self.image.shape[0], self.image.shape[1])
        tile = np.ascontiguousarray(self.image.transpose(2, 0, 1)[None])
        prior = sample_prior(maps, sides, (0, 0), sides, self.stride)[None]
        return self.session.run(names, {TILE: tile, PRIOR: prior})

    def restored(self, maps: Floats) -> Floats:
        """Return the image restored with prior maps, (H, W, 3)."""
        (restored,) = self.values([RESTORED], maps)
        return np.asarray(restored[0].transpose(1, 2, 0))


def find_fusion_outputs(found: ModelFiles) -> FusionOutputs | None:
    """Return the names of region and scale weights; None if it is not a VarFormer-S."""
    if weights_path(found.restore).is_file():
        return None
    nodes = read_nodes(found.restore.read_bytes())

    def of(head: str) -> tuple[str, ...]:
        weights = (f"network.fuse_{place}.enhance.{head}.2.weight" for place in FUSIONS.values())
        values = (find_output_after(nodes, weight, "Softmax") for weight in weights)
        return tuple(value for value in values if value is not None)

    decisions = FusionOutputs(of("region_weights"), of("scale_weights"))
    whole = len(decisions.regions) == len(decisions.scales) == len(FUSIONS)
    return decisions if whole else None


def fitted(pixels: Floats, longest: int, multiple: int) -> Floats:
    """Shrink an image (H, W, 3) to sides that are multiples of `multiple`, at most `longest`.

    The aspect ratio may change slightly; very small images are enlarged to one multiple.
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
