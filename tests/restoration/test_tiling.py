"""Tiles cover an image, overlap as asked, and join without a trace."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from varfix.engine.image.decoded_image import to_floats, to_integers
from varfix.engine.restoration.tiling import (
    MAX_SIDE_RATIO,
    MAX_SINGLE_RATIO,
    Axis,
    TileBlender,
    extract_tile,
    mirrored_indices,
    plan_axis,
    plan_rectangles,
    plan_tiles,
    shrink_tiles,
)

SIZES = [(1, 1), (1, 7), (5, 3), (63, 64), (64, 64), (65, 64), (200, 131), (4097, 33), (33, 4097)]


@st.composite
def axes(draw):
    """An axis, the overlap asked for, and the alignment."""
    align = draw(st.sampled_from([1, 4, 16]))
    size = align * draw(st.integers(2, 16))
    overlap = draw(st.integers(0, size - align))
    return plan_axis(draw(st.integers(1, 5000)), size, overlap, align), overlap, align


@given(axes())
def test_tiles_cover_every_pixel_and_hardly_more(planned):
    axis, _, align = planned
    assert axis.starts[0] == 0
    assert axis.starts[-1] + axis.size >= axis.length
    if len(axis.starts) > 1:
        assert axis.starts[-1] + axis.size < axis.length + align


@given(axes())
def test_neighbors_overlap_at_least_as_asked(planned):
    axis, overlap, _ = planned
    steps = np.diff(axis.starts)
    assert (steps > 0).all()
    assert (axis.size - steps >= overlap).all()


@given(axes())
def test_tiles_start_on_multiples_of_the_alignment(planned):
    axis, _, align = planned
    assert all(start % align == 0 for start in axis.starts)


@given(axes())
def test_there_is_no_sliver_and_no_tile_too_many(planned):
    axis, overlap, align = planned
    steps = np.diff(axis.starts)
    if len(steps):
        assert steps.max() - steps.min() <= align
        fewer = len(steps) - 1
        step = (axis.size - overlap) // align * align
        assert fewer * step + axis.size < axis.length


@given(axes(), st.sampled_from([1, 2, 4]))
def test_shrunk_tiles_are_as_many_and_as_small_as_possible(planned, factor):
    axis, overlap, align = planned
    step = factor * align
    overlap = min(overlap, axis.size // 3)
    axis = plan_axis(axis.length, axis.size, overlap, align)
    small = shrink_tiles(axis, overlap, align, step)
    assert len(small.starts) == len(axis.starts)
    assert small.size == axis.size or small.size % step == 0
    assert small.size <= axis.size
    assert small.starts == plan_axis(axis.length, small.size, overlap, align).starts
    smaller = (small.size - 1) // step * step
    if len(axis.starts) == 1:
        assert smaller < axis.length
    elif smaller >= 3 * overlap:
        assert smaller == 0 or len(plan_axis(axis.length, smaller, overlap, align).starts) > len(
            axis.starts
        )


@pytest.mark.parametrize(
    ("length", "side"), [(1, 64), (64, 64), (65, 128), (320, 320), (500, 512), (520, 320)]
)
def test_no_side_is_longer_than_an_image_needs(length, side):
    assert shrink_tiles(plan_axis(length, 512, 32, 16), 32, 16, 64).size == side


def test_where_no_smaller_tile_is_known_the_full_one_stays():
    axis = plan_axis(10, 64, 16)
    assert shrink_tiles(axis, 16, 1, 64) is axis


@given(axes())
def test_fading_weights_rise_symmetrically_inside_the_inner_half_of_the_overlap(planned):
    axis, _, _ = planned
    for index in range(1, len(axis.starts)):
        first, weights = axis.fade(index)
        start, end = axis.starts[index], axis.starts[index - 1] + axis.size
        assert ((weights > 0) & (weights < 1)).all()
        assert (np.diff(weights) > 0).all()
        np.testing.assert_allclose(weights + weights[::-1], 1.0, atol=1e-6)
        dropped = (first - start, end - first - len(weights))
        assert abs(dropped[0] - dropped[1]) <= 1
        assert abs(sum(dropped) - len(weights)) <= 1


@given(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from([(8, 2), (16, 5), (16, 12), (32, 16)])
)
def test_weights_of_all_tiles_sum_to_one_everywhere(height, width, tiling):
    grid = plan_tiles(height, width, *tiling)
    assume(len(grid) <= 60)
    total = np.zeros((height, width, 3))
    for chosen in range(len(grid)):
        blender = TileBlender(grid)
        for number in range(len(grid)):
            blender.add(np.full((tiling[0], tiling[0], 3), number == chosen, np.float32))
        assert blender.image.min() >= 0.0
        total += blender.image
    np.testing.assert_allclose(total, 1.0, atol=1e-5)


def joined(pixels, size, overlap, align=1, change=lambda tile, place: tile):
    height, width = pixels.shape[:2]
    grid = plan_tiles(height, width, size, overlap, align)
    blender = TileBlender(grid)
    for place in grid:
        blender.add(change(extract_tile(pixels, place, (size, size)), place))
    return blender.image


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("shape", SIZES)
def test_extracted_and_blended_tiles_give_the_image_bit_for_bit(shape, depth):
    kind = {8: np.uint8, 16: np.uint16}[depth]
    samples = np.random.default_rng(1).integers(0, 2**depth, (*shape, 3)).astype(kind)
    pixels = to_floats(samples)
    result = joined(pixels, 64, 16)
    assert np.array_equal(result, pixels)
    assert np.array_equal(to_integers(result, depth=depth, gray=False), samples)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_identity_holds_for_any_tiling(height, width, data):
    align = data.draw(st.sampled_from([1, 4]))
    size = align * data.draw(st.integers(1, 6))
    overlap = data.draw(st.integers(0, size - 1))
    grid = plan_tiles(height, width, size, overlap, align)
    assume(len(grid) <= 400)
    pixels = np.random.default_rng(height * 61 + width).random((height, width, 3), np.float32)
    assert np.array_equal(joined(pixels, size, overlap, align), pixels)


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from([4, 8, 16]))
def test_identity_holds_for_shrunk_tiles(height, width, step):
    pixels = np.random.default_rng(height * 61 + width).random((height, width, 3), np.float32)
    for grid in (
        plan_tiles(height, width, 64, 12, 4).shrink_tiles(12, 4, step),
        plan_rectangles(height, width, 64, 12, 4, step),
    ):
        blender = TileBlender(grid)
        for place in grid:
            blender.add(extract_tile(pixels, place, grid.sides))
        assert np.array_equal(blender.image, pixels)


@given(st.integers(1, 12_000), st.integers(1, 12_000), st.sampled_from([(32, 16), (96, 16)]))
def test_rectangles_are_less_work_than_squares_and_take_no_more_memory(height, width, tiling):
    grid = plan_rectangles(height, width, 512, *tiling, step=64)
    squares = plan_tiles(height, width, 512, *tiling).shrink_tiles(*tiling, step=64)
    assert grid.work <= squares.work
    assert max(grid.sides) <= MAX_SIDE_RATIO * 512
    assert all(side % 64 == 0 for side in grid.sides)
    single = len(grid) == 1
    assert np.prod(grid.sides) <= (MAX_SINGLE_RATIO if single else 1.0) * 512**2
    for axis in (grid.rows, grid.columns):
        assert (axis.size - np.diff(axis.starts) >= tiling[0]).all()
        assert axis.starts[-1] + axis.size >= axis.length


@pytest.mark.parametrize(
    ("size", "sides", "tiles"),
    [
        ((544, 800), (576, 448), 2),  # 768x512 with its margin: two of them, not four squares
        ((512, 672), (512, 704), 1),
        ((532, 532), (576, 576), 1),  # not much larger than a tile: no seam
        ((3056, 4064), (640, 320), 70),  # 12 megapixels: an eighth less than 63 squares
        ((132, 8032), (192, 768), 11),
        ((1, 1), (64, 64), 1),
    ],
)
def test_rectangles_suit_the_image(size, sides, tiles):
    grid = plan_rectangles(*size, size=512, overlap=32, align=16, step=64)
    assert (grid.sides, len(grid)) == (sides, tiles)


def test_every_tile_has_the_full_size_and_continues_by_reflection():
    pixels = np.arange(5 * 3 * 3, dtype=np.float32).reshape(5, 3, 3)
    tile = extract_tile(pixels, (0, 0), (8, 7))
    assert tile.shape == (8, 7, 3)
    assert np.array_equal(tile, np.pad(pixels, ((0, 3), (0, 4), (0, 0)), mode="reflect"))


@given(st.integers(1, 20), st.integers(1, 80))
def test_reflection_repeats_as_often_as_needed(length, count):
    line = np.arange(length)
    expected = np.pad(line, (0, max(0, count - length)), mode="reflect")[:count]
    assert np.array_equal(mirrored_indices(0, count, length), expected)


def test_a_tiles_outermost_pixels_leave_no_trace():
    """The outer half of each overlap is dropped: a quarter of it at each inner edge."""
    pixels = np.random.default_rng(2).random((150, 150, 3), np.float32)
    grid = plan_tiles(150, 150, 64, 16)
    ends = (grid.rows.starts[-1], grid.columns.starts[-1])

    def spoil(tile, place):
        tile = tile.copy()
        for axis in (0, 1):
            edge = np.moveaxis(tile, axis, 0)
            if place[axis] > 0:
                edge[:4] = 9.0
            if place[axis] < ends[axis]:
                edge[-4:] = 9.0
        return tile

    assert np.array_equal(joined(pixels, 64, 16, change=spoil), pixels)


def test_two_constants_are_joined_by_a_raised_cosine():
    axis = Axis(112, 64, (0, 48))
    grid = plan_tiles(64, 112, 64, 16)
    assert grid.columns == axis
    blender = TileBlender(grid)
    blender.add(np.zeros((64, 64, 3), np.float32))
    blender.add(np.ones((64, 64, 3), np.float32))
    line = blender.image[10, :, 1]
    expected = 0.5 - 0.5 * np.cos(np.pi * (np.arange(8) + 0.5) / 8)
    assert not line[:52].any()
    np.testing.assert_allclose(line[52:60], expected, atol=1e-6)
    assert (line[60:] == 1.0).all()


def test_a_ramp_that_both_tiles_agree_on_stays_a_ramp():
    pixels = np.repeat(np.linspace(0, 1, 130, dtype=np.float32)[None, :, None], 3, 2).repeat(70, 0)
    assert np.array_equal(joined(pixels, 64, 20), pixels)


def test_tiles_that_differ_by_noise_are_never_left_outside_their_range():
    rng = np.random.default_rng(3)
    noisy = joined(
        np.zeros((100, 100, 3), np.float32), 32, 12, change=lambda t, _: rng.random(t.shape, "f4")
    )
    assert noisy.min() >= 0.0 and noisy.max() <= 1.0
