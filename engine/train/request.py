"""The request for a training run; apart from the loop, because it needs no PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TrainRequest:
    """What to train, on which images, and the folder of the run.

    Attributes:
        out: Folder of the run: `state.pt`, `metrics.jsonl`, `samples/`, `weights.safetensors`.
        photos: Folders of clean images.
        pairs: Folders of degraded images and of their targets, or None.
        config: Recipe as YAML; None for the recipe of the shipped model.
        overrides: `KEY=VALUE` changes to the recipe.
        initial: Initial weights: `.safetensors`, `.onnx`, or published checkpoints; empty for
            random ones. Files after the first contain parts of a network.
        devices: Number of GPUs; None = all.
        minutes: Time limit over all sessions; None for the recipe's.
        compile: Whether to compile the networks.
    """

    out: Path
    photos: Sequence[Path] = ()
    pairs: tuple[Path, Path] | None = None
    config: Path | None = None
    overrides: Sequence[str] = ()
    initial: Sequence[Path] = ()
    devices: int | None = None
    minutes: float | None = None
    compile: bool = False

    @property
    def changes(self) -> list[str]:
        """The options as changes to the recipe."""
        minutes = [] if self.minutes is None else [f"minutes={self.minutes}"]
        return minutes + (["compile=true"] if self.compile else [])
