"""Pictures of a prior: where it enters, which of its scales, and what it says.

After the paper's figures 7 (regions) and 2 (scales replaced); the bars are the weights of eq. 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Floats = npt.NDArray[np.float32]
Decode = Callable[[Floats], Floats]
"""Draws a latent (C, n, n) as a picture (S, S, 3) in [0, 1]."""

_GAP: Final = 12  # pixels around each picture of a sheet
_LINE: Final = 26  # height of a caption
_ACROSS: Final = 4  # pictures in a row
_INK: Final = (32, 32, 32)
_FAINT: Final = (208, 208, 208)
_BAR: Final = (47, 110, 178)
_OVERLAY: Final = 0.6  # how much of the heat, and how little of the picture, is seen


@dataclass(frozen=True)
class Explanation:
    """What a network says about a picture, and about its prior for it.

    Attributes:
        picture: (S, S, 3) in [0, 1], as the network saw it.
        levels: names of the places where the prior enters.
        regions: (levels, h, w) in [0, 1], the prior's share at every place of the picture.
        scales: (levels, K), the weight of each of the prior's scales; each row's sum is 1.
        asked: (K, C, n, n), what each scale of the degraded picture adds to its latent.
        increments: the same of the predicted clean picture.
        sides: (K,) sides of the scales' token maps.
    """

    picture: Floats
    levels: tuple[str, ...]
    regions: Floats
    scales: Floats
    asked: Floats
    increments: Floats
    sides: tuple[int, ...]


def sheets(explanation: Explanation, decode: Decode) -> dict[str, Image.Image]:
    """All pictures by file name."""
    return {
        "regions.png": region_sheet(explanation),
        "scales.png": scale_sheet(explanation),
        "replaced.png": replaced_sheet(explanation, decode),
    }


def region_sheet(explanation: Explanation) -> Image.Image:
    """The picture, then the prior's share at each level as heat over it (bright: much)."""
    tiles = [_bytes(explanation.picture)]
    captions = ["as the network sees it"]
    for level, region in zip(explanation.levels, explanation.regions, strict=True):
        tiles.append(heat(explanation.picture, region))
        captions.append(f"{level}: {region.min():.0%} to {region.max():.0%} prior")
    return _sheet(tiles, captions)


def heat(picture: Floats, region: Floats) -> npt.NDArray[np.uint8]:
    """A share (h, w) in [0, 1] as heat over a grey picture (S, S, 3); the scale is 0 to 1."""
    import cv2

    side = picture.shape[0]
    share = cv2.resize(region, (side, side), interpolation=cv2.INTER_LINEAR)
    heated = _bytes(np.asarray(share, np.float32))
    coloured = cv2.applyColorMap(heated, cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = _bytes(np.repeat(picture.mean(2, keepdims=True), 3, 2))
    blended = _OVERLAY * coloured.astype(np.float32) + (1.0 - _OVERLAY) * grey
    return blended.round().astype(np.uint8)


def replaced_sheet(explanation: Explanation, decode: Decode) -> Image.Image:
    """The degraded picture's latent, drawn with more and more of its first scales replaced."""
    tiles, captions = [], []
    for count in range(len(explanation.asked) + 1):
        tiles.append(_bytes(decode(replaced(explanation, count))))
        last = f"{explanation.sides[count - 1]} x {explanation.sides[count - 1]}" if count else ""
        captions.append(f"{count} replaced, to {last}" if count else "nothing replaced")
    return _sheet(tiles, captions)


def replaced(explanation: Explanation, count: int) -> Floats:
    """The latent (C, n, n) whose first `count` scales are predicted, the others as they were."""
    parts = [explanation.increments[:count], explanation.asked[count:]]
    latent: Floats = np.concatenate(parts).sum(0, dtype=np.float32)
    return latent


def scale_sheet(explanation: Explanation) -> Image.Image:
    """A chart for every level: one bar for each scale, all of the same height."""
    highest = float(explanation.scales.max())
    charts = [bars(weights, explanation.sides, highest) for weights in explanation.scales]
    return _sheet(charts, [f"{level}: weight by scale" for level in explanation.levels])


def bars(weights: Floats, labels: Sequence[object], highest: float) -> npt.NDArray[np.uint8]:
    """A bar chart (240, 320, 3) of weights up to `highest`, with a label under each bar."""
    width, height, bottom, top = 320, 240, 24, 20
    image = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(11)
    room, step = height - bottom - top, width / len(weights)
    draw.line([(0, height - bottom), (width, height - bottom)], fill=_FAINT)
    for i, (weight, label) in enumerate(zip(weights.tolist(), labels, strict=True)):
        length = round(room * weight / highest)
        left, right = round((i + 0.15) * step), round((i + 0.85) * step)
        draw.rectangle((left, height - bottom - length, right, height - bottom), fill=_BAR)
        middle = (left + right) / 2
        draw.text((middle, height - bottom - length - 2), f"{weight:.2f}", _INK, font, "ms")
        draw.text((middle, height - bottom + 4), str(label), _INK, font, "ma")
    return np.asarray(image)


def _bytes(values: Floats) -> npt.NDArray[np.uint8]:
    return (np.clip(values, 0.0, 1.0) * 255.0).round().astype(np.uint8)


def _sheet(tiles: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str]) -> Image.Image:
    """Pictures of one size in rows, each with a caption above it."""
    height, width = tiles[0].shape[:2]
    across = min(_ACROSS, len(tiles))
    down = -(-len(tiles) // across)
    size = (across * (width + _GAP) + _GAP, down * (height + _LINE + _GAP) + _GAP)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for i, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        row, column = divmod(i, across)
        left, top = _GAP + column * (width + _GAP), _GAP + row * (height + _LINE + _GAP)
        draw.text((left, top + _LINE - 6), caption, _INK, font, "ls")
        sheet.paste(Image.fromarray(tile), (left, top + _LINE))
    return sheet
