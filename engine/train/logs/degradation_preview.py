"""What the degradations look like: a contact sheet for each, to be judged by eye.

The strengths on a sheet are those that training meets: many versions of an image are drawn, sorted
by how far they are from it, and shown at even steps, from the mildest tenth to the worst one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from varfix.engine.train.data.photos import Photos, cut_picture, random_cut, stacked
from varfix.engine.train.degradations.mix import DEGRADATIONS, Mix, degrade
from varfix.engine.train.degradations.random_draws import integer
from varfix.engine.train.logs.sheet import Cell, save_sheet

DRAWN = 24
"""Versions of each image, of which `SHOWN` are on the sheet."""

SHOWN, ROWS, SIDE = 5, 4, 320


def write_previews(photos: Photos, out: Path, seed: int = 0) -> Iterator[Path]:
    """Write `out/NAME.png` for every degradation, and yield it when it is there."""
    rng = torch.Generator().manual_seed(seed)
    cuts = torch.cat([_wide_cut(photos, rng) for _ in range(ROWS)])
    for name in DEGRADATIONS:
        rows = [
            _row(cut, name, torch.Generator().manual_seed(seed + i)) for i, cut in enumerate(cuts)
        ]
        path = out / f"{name.replace('+', '-')}.png"
        save_sheet(rows, path)
        yield path


def _wide_cut(photos: Photos, rng: torch.Generator) -> Tensor:
    """Half of a photograph or more: a sheet of details says little about haze."""
    photo = photos.pictures[integer(0, len(photos), rng)]
    side = max(SIDE, min(photo.shape[:2]) // 2)
    cut = random_cut(photo.shape[:2], side, rng)
    return stacked([cut_picture(photo, cut, SIDE)], rng.device)


def _row(clean: Tensor, name: str, rng: torch.Generator) -> list[Cell]:
    """The image (3, H, W), then `SHOWN` damaged ones, from mild to bad."""
    mix = Mix({name: 1.0}, tone_jitter=0.0, jpeg_share=0.0)
    damaged = degrade(clean.expand(DRAWN, -1, -1, -1), mix, rng).picture
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
