"""What a training run is asked to do; apart from the loop, because asking needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Job:
    """What to train, on what, and where to.

    Attributes:
        out: folder of the run: `state.pt`, `metrics.jsonl`, `samples/`, `weights.safetensors`.
        photos: folders of clean photographs.
        pairs: folder of damaged images and folder of their targets, if there are any.
        config: recipe YAML; None for the recipe of the model that ships.
        overrides: `KEY=VALUE` changes to the recipe.
        initial: weights to begin with, `.safetensors`, `.onnx`, or public checkpoints; None for
            fresh ones.
        devices: how many GPUs; None for all.
    """

    out: Path
    photos: Sequence[Path] = ()
    pairs: tuple[Path, Path] | None = None
    config: Path | None = None
    overrides: Sequence[str] = ()
    initial: Path | None = None
    devices: int | None = None
