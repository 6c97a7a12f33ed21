"""Places tiles and blends them; pure numpy.

Along each axis tiles start at even distances. Where two overlap, the outer half of the overlap is
dropped on both sides, because a network's outermost pixels are the least reliable, and the inner
half is cross-faded by a raised cosine. Cross-fading is `a + w (b - a)`, which is exact where both
tiles agree: an identity network returns the image bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
RowSink = Callable[[int, Floats], None]
"""Takes the number of the first row, and finished rows (n, W, 3)."""

MAX_SIDE_RATIO = 2
"""Longest side of a rectangular tile divided by the side of a square one."""

MAX_SINGLE_RATIO = 1.5
"""Most pixels of an image's only tile divided by the pixels of a square one."""


@dataclass(frozen=True)
class Axis:
    """Tiles along one axis.

    Attributes:
        length: Pixels of the image.
        size: Pixels of a tile.
        starts: First pixel of each tile, ascending from 0; the last tile may extend past the end.
    """

    length: int
    size: int
    starts: tuple[int, ...]

    def fade(self, index: int) -> tuple[int, Floats]:
        """Return the cross-fade from the previous tile to tile `index`.

        Returns:
            The first faded pixel, and the rising weights (W,) in [0, 1) of tile `index` from there;
            its weight is 0 before them and 1 after them.
        """
        start = self.starts[index]
        overlap = self.starts[index - 1] + self.size - start
        width = overlap // 2
        phase = (np.arange(width, dtype=np.float32) + 0.5) / max(width, 1)
        weights = 0.5 - 0.5 * np.cos(np.pi * phase)
        return start + (overlap - width) // 2, weights.astype(np.float32)


def plan_axis(length: int, size: int, overlap: int, align: int = 1) -> Axis:
    """Place the fewest tiles that overlap by at least `overlap`, evenly, on multiples of `align`.

    Even distances leave no narrow tile at the end; with alignment, networks with strides and
    windows get the same pixels at the same places in neighboring tiles.
    """
    if length <= size:
        return Axis(length, size, (0,))
    reach = -(-(length - size) // align)  # start of the last tile, in units of align
    step = max(1, (size - overlap) // align)
    gaps = -(-reach // step)
    starts = tuple(align * round(i * reach / gaps) for i in range(gaps + 1))
    return Axis(length, size, starts)


def shrink_tiles(axis: Axis, overlap: int, align: int, step: int) -> Axis:
    """Return the axis with its tiles as small as their number allows, for the least work.

    Args:
        axis: Result of `plan_axis`.
        overlap: Least overlap of neighbors in pixels; at most a third of a tile.
        align: Tiles start at multiples of this.
        step: Sides of tiles are multiples of this, except for the current size of the axis.
    """
    count = len(axis.starts)
    least = max(-(-(axis.length + (count - 1) * overlap) // count), 3 * overlap if count > 1 else 1)
    for size in range(-(-least // step) * step, axis.size, step):
        smaller = plan_axis(axis.length, size, overlap, align)
        if len(smaller.starts) == count:
            return smaller
    return axis


@dataclass(frozen=True)
class TileGrid:
    """Tiles of an image, row by row."""

    rows: Axis
    columns: Axis

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of every tile."""
        return self.rows.size, self.columns.size

    def shrink_tiles(self, overlap: int, align: int, step: int) -> TileGrid:
        """Return the same number of tiles, each as small as possible."""
        axes = (shrink_tiles(axis, overlap, align, step) for axis in (self.rows, self.columns))
        return TileGrid(*axes)

    @property
    def work(self) -> int:
        """Pixels of all tiles together."""
        return len(self) * self.rows.size * self.columns.size

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield first row and column of each tile, in the order of `TileBlender.add`."""
        for top in self.rows.starts:
            for left in self.columns.starts:
                yield top, left


def plan_tiles(height: int, width: int, size: int, overlap: int, align: int = 1) -> TileGrid:
    """Cover an image with square tiles.

    Args:
        height: Pixels, at least 1.
        width: Pixels, at least 1.
        size: Side of a tile in pixels.
        overlap: Least overlap of neighbors in pixels, below `size`.
        align: Tiles start at multiples of this.
    """
    return TileGrid(plan_axis(height, size, overlap, align), plan_axis(width, size, overlap, align))


def plan_rectangles(
    height: int, width: int, size: int, overlap: int, align: int, step: int
) -> TileGrid:
    """Cover an image with the rectangular tiles that need the least work.

    A tile has at most as many pixels as a square one, so that it needs no more memory. An image
    not much larger than that is one tile: every seam costs its overlap.

    Args:
        height: Pixels, at least 1.
        width: Pixels, at least 1.
        size: Side of a square tile in pixels.
        overlap: Least overlap of neighbors in pixels; at most a third of `size`.
        align: Tiles start at multiples of this.
        step: Sides of tiles are multiples of this.
    """
    sides = range(step, MAX_SIDE_RATIO * size + 1, step)
    whole = TileGrid(*(Axis(length, -(-length // step) * step, (0,)) for length in (height, width)))
    grids = [plan_tiles(height, width, size, overlap, align).shrink_tiles(overlap, align, step)]
    if whole.work <= MAX_SINGLE_RATIO * size**2 and max(whole.sides) <= sides[-1]:
        grids.append(whole)
    for tall in (side for side in sides if side >= 3 * overlap):
        wide = min(size**2 // tall // step * step, sides[-1])
        if wide >= max(step, 3 * overlap):
            axes = plan_axis(height, tall, overlap, align), plan_axis(width, wide, overlap, align)
            grids.append(TileGrid(*axes).shrink_tiles(overlap, align, step))
    return min(grids, key=lambda grid: (grid.work, len(grid)))


def extract_tile(pixels: Floats, place: tuple[int, int], sides: tuple[int, int]) -> Floats:
    """Return the tile (*sides, 3) of (H, W, 3) at a place; mirrored beyond the edges."""
    (top, left), (height, width) = place, sides
    ends = top + height <= pixels.shape[0] and left + width <= pixels.shape[1]
    if min(place) >= 0 and ends:
        return pixels[top : top + height, left : left + width]
    rows = mirrored_indices(top, height, pixels.shape[0])
    columns = mirrored_indices(left, width, pixels.shape[1])
    return pixels[rows][:, columns]


def mirrored_indices(start: int, count: int, length: int) -> npt.NDArray[np.intp]:
    """Return the indices of `count` pixels from `start`, reflected repeatedly at both ends."""
    if length == 1:
        return np.zeros(count, np.intp)
    period = 2 * (length - 1)
    places = np.arange(start, start + count) % period
    return np.minimum(places, period - places)


class TileBlender:
    """Blends tiles, given in the grid's order; keeps one row of tiles, and emits finished rows.

    Attributes:
        grid: Places of the tiles.
        image: (H, W, 3), the result, if no sink takes the rows.
    """

    def __init__(self, grid: TileGrid, sink: RowSink | None = None) -> None:
        """Begin an image.

        Args:
            grid: Places of the tiles.
            sink: Takes the number of the first finished row, and the rows, from top to bottom; no
                later tile covers them. The array is reused afterwards.
        """
        width = grid.columns.length
        self.grid = grid
        self.image = np.empty((0 if sink else grid.rows.length, width, 3), np.float32)
        self._sink = sink or self._keep
        self._strip = np.empty((grid.rows.size, width, 3), np.float32)
        self._covered = self._strip[:0]
        self._count = 0

    def add(self, tile: Floats) -> None:
        """Add the next tile (*sides, 3)."""
        row, column = divmod(self._count, len(self.grid.columns.starts))
        _join(self._strip.swapaxes(0, 1), tile.swapaxes(0, 1), self.grid.columns, column)
        if column == len(self.grid.columns.starts) - 1:
            self._finish(row)
        self._count += 1

    def _finish(self, row: int) -> None:
        """Blend a row of tiles with the previous row; emit the rows that no later tile covers."""
        axis, strip = self.grid.rows, self._strip
        start, end = axis.starts[row], [*axis.starts, axis.length][row + 1]
        if row > 0:
            first, weights = axis.fade(row)
            first, solid = first - start, first - start + len(weights)
            below = self._covered[first:solid]
            below += weights.reshape(-1, 1, 1) * (strip[first:solid] - below)
            strip[:solid] = self._covered[:solid]
        if end < axis.length:
            self._covered = strip[end - start :].copy()
        self._sink(start, strip[: end - start])

    def _keep(self, top: int, rows: Floats) -> None:
        self.image[top : top + len(rows)] = rows


def _join(whole: Floats, part: Floats, axis: Axis, index: int) -> None:
    """Blend part `index` of an axis into the whole; the axis is the first of both arrays."""
    start, length = axis.starts[index], axis.length
    solid = start
    if index > 0:
        first, weights = axis.fade(index)
        solid = first + len(weights)
        weights = weights[: max(0, length - first)].reshape(-1, 1, 1)
        below = whole[first : first + len(weights)]
        above = part[first - start : first - start + len(weights)]
        below += weights * (above - below)
    end = min(length, start + axis.size)
    if end > solid:
        whole[solid:end] = part[solid - start : end - start]
