"""Sheets of current results of a run: degraded, restored and target, one row for each image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from varfix.engine.train.data.source import Source
from varfix.engine.train.logs.curves import draw_curves
from varfix.engine.train.logs.sheet import Cell, save_sheet

ROWS = 8
SIDE = 256


class Samples:
    """Writes `samples/NAME.png`, always of the same degraded images, and `curves.png`."""

    def __init__(self, out: Path, source: Source, seed: int) -> None:
        """Prepare; images are drawn for each sheet."""
        self.out, self.source, self.seed = out, source, seed

    def write(
        self, restore: Callable[[Any, Tensor, Tensor], Tensor], model: torch.nn.Module, name: str
    ) -> None:
        """Restore the images with `model`; write the sheet, and the curves so far."""
        device = next(model.parameters()).device
        drawn = self.source.draw(ROWS, SIDE, torch.Generator(device).manual_seed(self.seed))
        with torch.no_grad():
            restored = restore(model, drawn.image.to(device), drawn.task.to(device))
        columns = {"damaged": drawn.image, "restored": restored, "target": drawn.target}
        rows = [
            [Cell(f"{kind}: {column}", columns[column][row].float().cpu()) for column in columns]
            for row, kind in enumerate(drawn.names)
        ]
        save_sheet(rows, self.out / "samples" / f"{name}.png")
        draw_curves(self.out / "metrics.jsonl", self.out / "curves.png")
