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
        initial: weights to begin with, `.safetensors`, `.onnx`, or public checkpoints; none for
            fresh ones. Those after the first hold parts of a network.
        devices: how many GPUs; None for all.
        minutes: that training may take, all sessions together; None for what the recipe says.
        compile: whether networks are compiled.
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
        """What the options say, as changes to the recipe."""
        minutes = [] if self.minutes is None else [f"minutes={self.minutes}"]
        return minutes + (["compile=true"] if self.compile else [])
