"""Contact sheets of the degradations, for visual checks.

The strengths are those of training: many versions of an image are drawn, sorted by their difference
from it, and shown at equal steps, from the weakest to the strongest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from varfix.engine.train.data.photos import Photos, apply_crop, random_crop, to_batch
from varfix.engine.train.degradations.mix import DEGRADATIONS, Mix, degrade
from varfix.engine.train.degradations.random_draws import integer
from varfix.engine.train.logs.sheet import Cell, save_sheet

DRAWN = 24
"""Versions of each image, of which `SHOWN` are on the sheet."""

SHOWN, ROWS, SIDE = 5, 4, 320


def write_previews(photos: Photos, out: Path, seed: int = 0) -> Iterator[Path]:
    """Write `out/NAME.png` for every degradation; yield each path when the file is written."""
    rng = torch.Generator().manual_seed(seed)
    crops = torch.cat([_wide_crop(photos, rng) for _ in range(ROWS)])
    for name in DEGRADATIONS:
        rows = [
            _row(crop, name, torch.Generator().manual_seed(seed + i))
            for i, crop in enumerate(crops)
        ]
        path = out / f"{name.replace('+', '-')}.png"
        save_sheet(rows, path)
        yield path


def _wide_crop(photos: Photos, rng: torch.Generator) -> Tensor:
    """Return half of an image or more: details show little of haze."""
    photo = photos.images[integer(0, len(photos), rng)]
    side = max(SIDE, min(photo.shape[:2]) // 2)
    crop = random_crop(photo.shape[:2], side, rng)
    return to_batch([apply_crop(photo, crop, SIDE)], rng.device)


def _row(clean: Tensor, name: str, rng: torch.Generator) -> list[Cell]:
    """Return the image (3, H, W), then `SHOWN` degraded versions, from weak to strong."""
    mix = Mix({name: 1.0}, tone_jitter=0.0, jpeg_share=0.0)
    damaged = degrade(clean.expand(DRAWN, -1, -1, -1), mix, rng).image
    error = (damaged - clean).square().mean((1, 2, 3)).clamp_min(1e-6)
    order = error.argsort()
    picks = [int(order[(2 * i + 1) * DRAWN // (2 * SHOWN)]) for i in range(SHOWN)]
    levels = [-10.0 * float(error[pick].log10()) for pick in picks]
    return [
        Cell("clean", clean),
        *(
            Cell(f"{name}, {level:.1f} dB", damaged[pick])
            for pick, level in zip(picks, levels, strict=True)
        ),
    ]
