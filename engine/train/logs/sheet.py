"""Contact sheets: rows of small images with labels above them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from varfix.engine.system.atomic import replacement

GAP = 6
LINE = 16
"""Height of a line of Pillow's built-in font, with a margin."""

PAPER, INK = (24, 24, 24), (235, 235, 235)


@dataclass(frozen=True)
class Cell:
    """An image (3, H, W) in [0, 1] and its label."""

    label: str
    image: Tensor


def save_sheet(rows: Sequence[Sequence[Cell]], path: Path) -> None:
    """Write a sheet as PNG, atomically; create its folder.

    Args:
        rows: Cells; all images have the same size.
        path: Path of the file.
    """
    height, width = rows[0][0].image.shape[1:]
    size = (
        GAP + max(len(row) for row in rows) * (width + GAP),
        GAP + len(rows) * (LINE + height + GAP),
    )
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            left, top = GAP + x * (width + GAP), GAP + y * (LINE + height + GAP)
            pen.text((left, top), cell.label, fill=INK)
            sheet.paste(_image(cell.image), (left, top + LINE))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacement(path) as part:
        sheet.save(part, format="PNG")


def _image(image: Tensor) -> Image.Image:
    samples = (image.clamp(0.0, 1.0) * 255.0).round().permute(1, 2, 0).numpy()
    return Image.fromarray(samples.astype(np.uint8))
