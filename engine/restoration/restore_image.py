"""Restores one image: the prior once, tiles in batches, joined and blended with the source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from varfix.engine.errors import NonFiniteError
from varfix.engine.restoration.prior_input import prior_input_of
from varfix.engine.restoration.prior_maps import sample_prior
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.restoration.strength import blend
from varfix.engine.restoration.tiling import (
    RowSink,
    TileBlender,
    TileGrid,
    extract_tile,
    plan_rectangles,
    plan_tiles,
)
from varfix.engine.restoration.tone_lock import ToneCells, locks_tone
from varfix.engine.restoration.whole_image import restore_resized, restore_thumbnail, transfer_tone
from varfix.engine.settings.types import Settings, Strength

Floats = npt.NDArray[np.float32]
Progress = Callable[[int, int], None]


def tile_grid_for(restorer: Restorer, size: tuple[int, int], settings: Settings) -> TileGrid:
    """Return the tile grid of an image with the least work for the restorer.

    The tiles cover the image and its mirrored `margin`; their coordinates begin at the corner of
    the margin.

    Args:
        restorer: The model.
        size: Height and width in pixels.
        settings: Tiling.
    """
    card, wanted = restorer.card, settings.tile.overlap
    overlap = min(card.overlap if wanted is None else wanted, restorer.tile // 3)
    align = card.prior_stride if card.guidance == "image" else card.align
    height, width = (length + 2 * margin(restorer) for length in size)
    if restorer.tile_step == restorer.tile:
        return plan_tiles(height, width, restorer.tile, overlap, align)
    return plan_rectangles(height, width, restorer.tile, overlap, align, restorer.tile_step)


def margin(restorer: Restorer) -> int:
    """Return the width of the mirrored border that is restored and then dropped, in pixels.

    Between tiles the outermost pixels are dropped because a network has too little context there;
    at the edge of the image they are no better (measured: noise 25 was restored to 24 dB in the
    outermost row, to 34 dB inside). One sample of the prior on each side is enough, and keeps
    tiles aligned. Models without image guidance get tiles as in training, without a border.
    """
    return restorer.card.prior_stride if restorer.card.guidance == "image" else 0


@dataclass(frozen=True)
class RestoredImage:
    """A restored image, and what became of its tone.

    Attributes:
        pixels: (H, W, 3) float32 in [0, 1].
        tone_change: (h, w, 3) float32, mean change of cells of about 32 x 32 pixels, at strength 1.
    """

    pixels: Floats
    tone_change: Floats


def restore_image(
    restorer: Restorer,
    pixels: Floats,
    settings: Settings,
    progress: Progress | None = None,
    maps: Floats | None = None,
    overwrite_input: bool = False,
) -> Floats:
    """Restore an image; see `restore_and_measure`, of whose result these are the pixels."""
    return restore_and_measure(restorer, pixels, settings, progress, maps, overwrite_input).pixels


def restore_and_measure(
    restorer: Restorer,
    pixels: Floats,
    settings: Settings,
    progress: Progress | None = None,
    maps: Floats | None = None,
    overwrite_input: bool = False,
) -> RestoredImage:
    """Restore an image, and measure how its tone changes.

    Args:
        restorer: The model.
        pixels: (H, W, 3) float32 in [0, 1]; not changed unless `overwrite_input`.
        settings: Strength, task and tiling.
        progress: Receives the numbers of finished tiles and of all tiles.
        maps: Maps (C, 16, 16) of a prior; None computes the prior of this image.
        overwrite_input: Write the result into `pixels` where possible, which saves the memory of
            a second image.

    Returns:
        Pixels (H, W, 3) float32 in [0, 1], `pixels` itself at strength 0; and the change.

    Raises:
        NonFiniteError: The model produced invalid values for this image.
        DeviceMemoryError: A single tile does not fit the device.
    """
    exact, strength = settings.tile.tone_lock == "always", settings.strengths
    cells = ToneCells(*pixels.shape[:2], exact=exact)
    if strength.is_zero:
        return RestoredImage(pixels, cells.change)
    if maps is None and restorer.card.guidance == "image":
        task = settings.model.task
        maps = restorer.prior(prior_input_of(pixels, restorer.card.thumbnail, task))
    if restorer.card.guidance == "tile" and settings.tile.resize_whole:
        target = _blend_measured(pixels, restore_resized(restorer, pixels), strength, cells)
    else:
        finish = _Finish(cells, strength, overwrite_input)
        target = _restore_tiles(restorer, pixels, settings, progress, maps, finish)
    if locks_tone(settings, restorer.card, maps):
        cells.remove_change(target, strength)
    return RestoredImage(target, cells.change)


@dataclass(frozen=True)
class _Finish:
    """What happens to restored rows: they are measured and blended with the source.

    Attributes:
        cells: Measures the change.
        strength: Strength of the blend.
        overwrite_input: Whether the result may be written over the source.
    """

    cells: ToneCells
    strength: Strength
    overwrite_input: bool


def _restore_tiles(
    restorer: Restorer,
    pixels: Floats,
    settings: Settings,
    progress: Progress | None,
    maps: Floats | None,
    finish: _Finish,
) -> Floats:
    """Restore an image (H, W, 3) tile by tile; arguments as for `restore_and_measure`."""
    grid = tile_grid_for(restorer, (pixels.shape[0], pixels.shape[1]), settings)
    tone = restorer.card.tone_by_tile and settings.tile.tone == "global" and len(grid) > 1
    target = pixels if finish.overwrite_input and not tone else np.empty_like(pixels)
    edge = margin(restorer)
    sink = _copy_rows(target, edge) if tone else _blend_rows(target, pixels, edge, finish)
    blender = TileBlender(grid, sink)
    done = 0
    for batch in _restored(restorer, pixels, grid, maps):
        for tile in batch:
            blender.add(tile)
        done += len(batch)
        if progress is not None:
            progress(done, len(grid))
    if tone:
        transfer_tone(target, restore_thumbnail(restorer, pixels))
        _blend_measured(pixels, target, finish.strength, finish.cells)
    return target


def _blend_rows(target: Floats, source: Floats, edge: int, finish: _Finish) -> RowSink:
    """Return a sink that measures rows without their margin, and blends them into `target`.

    The target may be the source: no later tile reads an overwritten row. Even the mirrored pixels
    below the last row come from rows after the last tiles' first row.
    """

    def write(rows: slice, restored: Floats) -> None:
        before = source[rows]
        target[rows] = _blend_measured(before, restored, finish.strength, finish.cells)

    return _without_margin(write, target.shape, edge)


def _copy_rows(target: Floats, edge: int) -> RowSink:
    """Return a sink that copies rows without their margin into `target`."""

    def write(rows: slice, restored: Floats) -> None:
        target[rows] = restored

    return _without_margin(write, target.shape, edge)


def _without_margin(
    write: Callable[[slice, Floats], None], shape: tuple[int, ...], edge: int
) -> RowSink:
    """Return a sink that passes rows to `write` without a margin of `edge` pixels on all sides."""
    height, width = shape[:2]

    def sink(top: int, rows: Floats) -> None:
        begin, end = max(0, top - edge), min(height, top - edge + len(rows))
        if begin < end:
            inner = rows[begin - (top - edge) : end - (top - edge), edge : edge + width]
            write(slice(begin, end), inner)

    return sink


def _blend_measured(
    source: Floats, restored: Floats, strength: Strength, cells: ToneCells
) -> Floats:
    """Measure the change of rows (n, W, 3) and blend them; overwrite and return `restored`."""
    cells.add(source, restored)
    return blend(source, restored, strength)


def _restored(
    restorer: Restorer, pixels: Floats, grid: TileGrid, maps: Floats | None
) -> Iterator[Floats]:
    """Yield batches of restored tiles (N, *sides, 3) in the grid's order."""
    edge = margin(restorer)
    places = [(top - edge, left - edge) for top, left in grid]
    done = 0
    while done < len(places):
        now = places[done : done + restorer.batch]
        tiles = np.stack([extract_tile(pixels, place, grid.sides) for place in now])
        tile_maps = None if maps is None else _tile_maps(restorer, maps, pixels, now, grid.sides)
        try:
            yield restorer.restore(tiles, tile_maps).pixels
        except NonFiniteError as error:
            raise _located(error, done, grid) from error
        done += len(now)


def _tile_maps(
    restorer: Restorer,
    maps: Floats,
    pixels: Floats,
    places: list[tuple[int, int]],
    sides: tuple[int, int],
) -> Floats:
    """Return the prior's maps sampled on each tile, (N, C, height / stride, width / stride)."""
    size, stride = (pixels.shape[0], pixels.shape[1]), restorer.card.prior_stride
    return np.stack([sample_prior(maps, size, place, sides, stride) for place in places])


def _located(error: NonFiniteError, done: int, grid: TileGrid) -> NonFiniteError:
    """Return the error with the row and column of its tile, if it names a tile."""
    if error.tile is None:
        return error
    row, column = divmod(done + error.tile, len(grid.columns.starts))
    return NonFiniteError(
        f"the model produced invalid values in tile {row},{column} even in fp32",
        tile=done + error.tile,
    )
