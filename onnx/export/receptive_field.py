"""Measures how far a network sees, and derives tile, overlap and alignment from it.

The theoretical receptive field of a deep network covers most tiles, while nearly all of its effect
comes from a few pixels around. So the effect itself is measured: everything beyond a corner of a
tile is replaced, and the results are compared by their distance from the replaced part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from varfix.engine.restoration.tiling import Axis
from varfix.onnx.export.natural_images import Floats, noisy_pixels

SEAM: Final = 1e-3
"""Largest difference at a seam that counts as none, a quarter of an 8-bit step."""

TILES: Final = (256, 512)
"""Tile sizes to try, in pixels: the smallest one at which tiles join without a seam is taken."""

SHIFTS: Final = (8, 16, 32, 64)
"""Alignments to try, in pixels."""

_LIGHTS: Final = (1.0, 0.2)
"""Brightness of the images that replace a part of the tile. Networks that average over the tile,
such as NAFNet, react to its light, and not to other content of the same light."""

_GLOBAL_OVERLAP: Final = 8  # tiles of a network that sees everything share an eighth

Network = Callable[[Floats], Floats]
"""Maps tiles (1, 3, H, W) in [0, 1] to restored tiles."""

Profile = npt.NDArray[np.float64]
"""Largest change by distance in pixels from the replaced part; falls with the distance."""


@dataclass(frozen=True)
class Tiling:
    """How an image is cut for a network.

    Attributes:
        tile: Edge of the tiles, in pixels.
        overlap: Pixels that neighbors share.
        align: Tiles start at multiples of this.
        reach: Distance from which content has no effect above `SEAM`; 0 if the network is global.
        seam: Largest difference that missing context makes at a seam.
    """

    tile: int
    overlap: int
    align: int
    reach: int
    seam: float

    @property
    def local(self) -> bool:
        """Whether tiles join without a visible seam."""
        return self.seam < SEAM


def measured_tiling(network: Network, multiple: int, tiles: Sequence[int] = TILES) -> Tiling:
    """Return the smallest tile whose seams are not visible.

    A network whose result depends on the whole tile, whatever its size, gets the smallest tile and
    `local` False.

    Args:
        network: The network, for tiles of any size.
        multiple: Edges of tiles are multiples of this.
        tiles: Sizes to try, ascending; each is rounded up to a multiple.
    """
    found = []
    for size in tiles:
        tile = -(-size // multiple) * multiple
        tiling = _tiling(network, tile, multiple)
        if tiling.local:
            return tiling
        found.append(tiling)
        if not tiling.reach:
            break
    return found[0]


def _tiling(network: Network, tile: int, multiple: int) -> Tiling:
    profile = influence(network, tile)
    overlap = least_overlap(profile, tile)
    reach = _reach(profile)
    if overlap is None:
        widest = tile // _GLOBAL_OVERLAP if not reach else tile // 3
        return Tiling(tile, widest, max(SHIFTS[0], multiple), reach, seam(profile, tile, widest))
    align = alignment(network, tile, multiple)
    if align is None:
        return Tiling(tile, overlap, max(SHIFTS), 0, 1.0)
    return Tiling(tile, overlap, align, reach, seam(profile, tile, overlap))


def influence(network: Network, tile: int) -> Profile:
    """Return the effect of missing context by distance, for every distance inside a tile.

    The rows above and the columns left of a corner are replaced by those of another image.
    Distances that the tile does not contain take the value of the largest measured one.
    """
    corner = tile // 4
    profile = np.zeros(tile)
    for seed, light in enumerate(_LIGHTS):
        tiles = noisy_pixels(tile, seed), np.float32(light) * noisy_pixels(tile, seed + 10)
        replaced = tiles[1].copy()
        replaced[..., corner:, corner:] = tiles[0][..., corner:, corner:]
        change = np.abs(network(replaced) - network(tiles[0])).max((0, 1))
        inside = change[corner:, corner:]
        by_row = [max(inside[d, d:].max(), inside[d:, d].max()) for d in range(len(inside))]
        profile[: len(by_row)] = np.maximum(profile[: len(by_row)], by_row)
    profile[len(by_row) :] = profile[len(by_row) - 1]
    falling: Profile = np.maximum.accumulate(profile[::-1])[::-1]
    return falling


def seam(profile: Profile, tile: int, overlap: int) -> float:
    """Return the largest effect of missing context after cross-fading tiles."""
    axis = Axis(2 * tile - overlap, tile, (0, tile - overlap))
    first, weights = axis.fade(1)
    faded = np.zeros(tile)
    begin = first - (tile - overlap)
    faded[begin : begin + len(weights)] = weights
    faded[begin + len(weights) :] = 1.0
    missing = profile * faded
    missing[:overlap] += missing[:overlap][::-1]  # the other tile fades out as this one fades in
    return float(missing.max())


def least_overlap(profile: Profile, tile: int) -> int | None:
    """Return the least overlap without a visible seam; None if there is none."""
    for overlap in range(16, tile // 3 + 1, 8):
        if seam(profile, tile, overlap) < SEAM:
            return overlap
    return None


def alignment(network: Network, tile: int, multiple: int) -> int | None:
    """Return the shift of an image by which the result only shifts too; None if there is none.

    Strides and windows make the result depend on where the tile begins.
    """
    edge = tile // 4  # where the missing context has an effect
    fitting = [shift for shift in SHIFTS if shift % multiple == 0] or [multiple]
    shifts = [shift for shift in fitting if shift < tile // 2]
    image = noisy_pixels(tile + max(shifts, default=0), 2)
    here = network(np.ascontiguousarray(image[..., :tile, :tile]))
    for shift in shifts:
        moved = slice(shift, shift + tile)
        there = network(np.ascontiguousarray(image[..., moved, moved]))
        inner = slice(edge + shift, tile - edge)
        other = slice(edge, tile - edge - shift)
        if float(np.abs(here[..., inner, inner] - there[..., other, other]).max()) < SEAM:
            return shift
    return None


def _reach(profile: Profile) -> int:
    """Return the distance from which the effect is below `SEAM`; 0 if it never is."""
    below = np.flatnonzero(profile < SEAM)
    return max(1, int(below[0])) if below.size else 0
