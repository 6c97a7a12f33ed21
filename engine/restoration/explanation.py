"""Draws how a prior contributes: in which regions, with which scales, and with which content.

As the figures 7 (regions) and 2 (replaced scales) of the VarFormer paper; the bars are the weights
of its equation 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Floats = npt.NDArray[np.float32]
Step = tuple[str, Floats]
"""A caption, and its image (H, W, 3) in [0, 1]."""

SIDES: Final = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""Sides of the prior's token maps (its scales), from coarse to fine."""

_GAP: Final = 12  # pixels around each image of a sheet
_LINE: Final = 26  # height of a caption
_ACROSS: Final = 4  # images in a row
_INK: Final = (32, 32, 32)
_FAINT: Final = (208, 208, 208)
_BAR: Final = (47, 110, 178)
_OVERLAY: Final = 0.6  # opacity of the heat map over the image


@dataclass(frozen=True)
class Explanation:
    """How a network restored an image with its prior.

    Attributes:
        image: (H, W, 3) in [0, 1], the network's input.
        levels: Names of the levels at which the prior is merged.
        regions: For each level (h, w) in [0, 1], the prior's share at every place of the image.
        scales: (levels, K), the weight of each of the prior's scales; each row's sum is 1.
        steps: The image with increasing parts of the prior; of one size.
        kinds: Probability of each kind of damage, in [0, 1]; empty for networks without this
            output.
    """

    image: Floats
    levels: tuple[str, ...]
    regions: Sequence[Floats]
    scales: Floats
    steps: Sequence[Step]
    kinds: Mapping[str, float] = field(default_factory=dict)


def sheets(explanation: Explanation) -> dict[str, Image.Image]:
    """Draw all sheets; return them by file name."""
    drawn = {
        "regions.png": region_sheet(explanation),
        "scales.png": scale_sheet(explanation),
        "steps.png": _sheet(
            [_bytes(image) for _, image in explanation.steps],
            [caption for caption, _ in explanation.steps],
        ),
    }
    if explanation.kinds:
        drawn["kinds.png"] = kind_sheet(explanation.kinds)
    return drawn


def region_sheet(explanation: Explanation) -> Image.Image:
    """Draw the image, then the prior's share at each level as a heat map over it."""
    tiles = [_bytes(explanation.image)]
    captions = ["input of the network"]
    for level, region in zip(explanation.levels, explanation.regions, strict=True):
        tiles.append(heat(explanation.image, region))
        captions.append(f"{level}: {_shares(region)} prior")
    return _sheet(tiles, captions)


def _shares(region: Floats) -> str:
    """Return the least and the greatest share in percent; small ones with tenths."""
    ends = [f"{share:.{0 if share > 0.095 else 1}%}" for share in (region.min(), region.max())]
    return " to ".join(dict.fromkeys(ends))


def heat(image: Floats, region: Floats) -> npt.NDArray[np.uint8]:
    """Draw a share (h, w) in [0, 1] as a heat map over the grayscale of an image (H, W, 3)."""
    import cv2

    height, width = image.shape[:2]
    share = cv2.resize(region, (width, height), interpolation=cv2.INTER_LINEAR)
    heated = _bytes(np.asarray(share, np.float32))
    colored = cv2.applyColorMap(heated, cv2.COLORMAP_INFERNO)[..., ::-1]
    gray = _bytes(np.repeat(image.mean(2, keepdims=True), 3, 2))
    blended = _OVERLAY * colored.astype(np.float32) + (1.0 - _OVERLAY) * gray
    return blended.round().astype(np.uint8)


def replacements(
    degraded: Floats, predicted: Floats, decode: Callable[[Floats], Floats]
) -> Iterator[Step]:
    """Yield the decoded latent with increasing numbers of its first scales replaced.

    Args:
        degraded: (K, C, n, n), contribution of each scale of the degraded image to its latent.
        predicted: The same for the predicted clean image.
        decode: Decodes a latent (C, n, n) to an image (S, S, 3) in [0, 1].
    """
    yield "nothing replaced", decode(replaced(degraded, predicted, 0))
    for count in range(1, len(degraded) + 1):
        image = decode(replaced(degraded, predicted, count))
        yield f"{count} replaced, to {_size(count)}", image


def replaced(degraded: Floats, predicted: Floats, count: int) -> Floats:
    """Return the latent (C, n, n) with its first `count` scales replaced by predicted ones."""
    parts = [predicted[:count], degraded[count:]]
    latent: Floats = np.concatenate(parts).sum(0, dtype=np.float32)
    return latent


def additions(
    maps: Floats, parts: Mapping[str, slice], restore: Callable[[Floats], Floats]
) -> Iterator[Step]:
    """Yield the image restored with increasing parts of its prior, and the change by each part.

    Args:
        maps: (C, n, n), the whole prior; all zeros mean no prior.
        parts: Channels to add one after another, by name.
        restore: Restores the image with given maps.
    """
    known = np.zeros_like(maps)
    before = restore(known)
    yield "without prior", before
    for name, channels in parts.items():
        known[channels] = maps[channels]
        image = restore(known)
        change = 255.0 * float(np.abs(image - before).mean())
        yield f"+ {name}: changes {change:.1f} of 255", image
        before = image


def prior_parts(channels: int, kinds: int, latent: int) -> dict[str, slice]:
    """Return the channels of a prior's parts, in the order in which `additions` adds them.

    Args:
        channels: Channels of the maps: scales, tone grid, degradation scores.
        kinds: Channels of degradation scores.
        latent: Channels of each scale.
    """
    scales = len(SIDES) * latent
    parts = {
        "degradation": slice(channels - kinds, channels),
        "tone": slice(scales, channels - kinds),
    }
    for count in range(1, len(SIDES) + 1):
        parts[f"scale {_size(count)}"] = slice((count - 1) * latent, count * latent)
    return parts


def _size(count: int) -> str:
    return f"{SIDES[count - 1]} x {SIDES[count - 1]}"


def scale_sheet(explanation: Explanation) -> Image.Image:
    """Draw a chart for every level with one bar for each scale; all charts have one range."""
    highest = float(explanation.scales.max())
    charts = [bars(weights, SIDES, highest) for weights in explanation.scales]
    return _sheet(charts, [f"{level}: weight by scale" for level in explanation.levels])


def kind_sheet(kinds: Mapping[str, float]) -> Image.Image:
    """Draw one bar for each kind of damage; full height is probability 1."""
    chart = bars(np.array(list(kinds.values()), np.float32), list(kinds), 1.0)
    return _sheet([chart], ["probability of each kind of damage"])


def bars(weights: Floats, labels: Sequence[object], highest: float) -> npt.NDArray[np.uint8]:
    """Draw a bar chart (240, 320, 3) of weights up to `highest`, with a label under each bar."""
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
    """Arrange images of one size in rows, each with a caption above it."""
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
