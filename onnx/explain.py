"""Asks a model's graph for what explains its result, and draws it (`varfix image --explain`)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from varfix.engine.errors import ConfigError
from varfix.engine.explain import Explanation, Floats, sheets
from varfix.engine.guidance import thumbnail
from varfix.engine.publish import Publisher
from varfix.onnx.card import check_companion
from varfix.onnx.runtime import CPU, SessionPlan, start
from varfix.onnx.session import OnnxRestorer
from varfix.onnx.store import find_model

RESULTS = ("asked", "increments", "scales", "regions")
SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""Sides of the token maps whose increments a graph with these results tells of."""


def check_explains(restorer: OnnxRestorer) -> None:
    """Refuse a model whose graph does not tell how its results come about.

    Raises:
        ConfigError: It does not.
    """
    if not restorer.card.levels:
        raise ConfigError(
            f"{restorer.card.name} does not tell how its results come about.",
            hint="--explain is for varformer-d16 and models exported like it.",
        )


def explain(model: str, restorer: OnnxRestorer, pixels: Floats, folder: Path) -> list[Path]:
    """Draw what a model says about a picture, which it sees at its own size.

    Args:
        model: registry name or path, as `restorer` was opened.
        restorer: the model.
        pixels: (H, W, 3) float32 in [0, 1].
        folder: where the pictures go; made if it is not there.

    Returns:
        The files written.

    Raises:
        ModelError: The model's decoder is missing, or another model's.
        OutputError: The folder cannot be written.
    """
    seen = thumbnail(pixels, restorer.tile)
    found = find_model(model)
    check_companion(restorer.card, found.decoder, found.restore)
    decoder = start(found.decoder, SessionPlan(CPU))

    def decode(latent: Floats) -> Floats:
        (drawn,) = decoder.run(["restored"], {"tile": latent[None]})
        return np.asarray(drawn[0].transpose(1, 2, 0))

    results = restorer.results(RESULTS, seen)
    parts = {name: value[0] for name, value in results.items()}
    explanation = Explanation(picture=seen, levels=restorer.card.levels, sides=SIDES, **parts)
    written = []
    for name, sheet in sheets(explanation, decode).items():
        data = io.BytesIO()
        sheet.save(data, "PNG")
        Publisher().publish(folder / name, data.getvalue())
        written.append(folder / name)
    return written
