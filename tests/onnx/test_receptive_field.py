"""Tiles, overlap and alignment are measured from what a network does."""

import numpy as np
import pytest
from scipy import ndimage

from varfix.engine.restoration.tiling import TileBlender, extract_tile, plan_tiles
from varfix.onnx.export import receptive_field
from varfix.onnx.export.natural_images import noisy_pixels
from varfix.onnx.export.receptive_field import SEAM, influence, measured_tiling


def blur(radius):
    """A network that averages a square around each pixel, with zeros beyond the edge."""
    width = 2 * radius + 1
    return lambda pixels: ndimage.uniform_filter(
        pixels, (0, 0, width, width), mode="constant"
    ).astype(np.float32)


def shrinking(stride):
    """A network that averages blocks which begin at the tile's corner."""

    def run(pixels):
        count, channels, height, width = pixels.shape
        blocks = pixels.reshape(count, channels, height // stride, stride, width // stride, stride)
        return blocks.mean((3, 5)).repeat(stride, 2).repeat(stride, 3)

    return run


def centered(pixels):
    """A network that subtracts the mean of the tile: it sees everything."""
    return pixels - pixels.mean((2, 3), keepdims=True)


def adapted(pixels):
    """A network that brightens a little by the mean of the tile, as attention over channels does.

    Images of the same brightness cannot show that.
    """
    return pixels * (1.0 + 0.02 * pixels.mean((1, 2, 3), keepdims=True))


@pytest.mark.parametrize("radius", [1, 6])
def test_the_reach_of_a_convolution_is_its_radius(radius):
    assert measured_tiling(blur(radius), 1, (96,)).reach == radius


def test_the_effect_falls_with_the_distance():
    profile = influence(blur(4), 64)
    assert profile[0] > profile[2] > profile[4] == profile[-1] == 0.0


def test_a_network_that_sees_the_whole_tile_is_global():
    tiling = measured_tiling(centered, 1, (64, 128))
    assert not tiling.local
    assert (tiling.tile, tiling.reach) == (64, 0)


def test_a_network_that_reacts_to_the_light_of_the_tile_is_global():
    assert not measured_tiling(adapted, 1, (128,)).local


def test_a_network_that_sees_far_gets_a_larger_tile():
    assert measured_tiling(blur(18), 1, (64, 256)).tile == 256


@pytest.mark.parametrize(("stride", "align"), [(4, 8), (16, 16), (32, 32)])
def test_tiles_of_a_network_with_strides_start_at_multiples_of_them(stride, align):
    tiling = measured_tiling(shrinking(stride), stride, (128,))
    assert (tiling.local, tiling.align) == (True, align)


def test_edges_of_tiles_are_multiples_of_what_the_network_needs():
    assert measured_tiling(shrinking(12), 12, (64,)).tile == 72


@pytest.mark.parametrize("network", [blur(2), blur(9), shrinking(16)])
def test_tiles_join_without_a_seam(network):
    """Tiles of the measured overlap give what one large tile gives."""
    tiling = measured_tiling(network, 16, (128,))
    image = noisy_pixels(320, 7)
    whole = network(image)[0].transpose(1, 2, 0)
    pixels = image[0].transpose(1, 2, 0)
    grid = plan_tiles(320, 320, tiling.tile, tiling.overlap, tiling.align)
    assert len(grid) > 4
    blender = TileBlender(grid)
    for place in grid:
        tile = extract_tile(pixels, place, grid.sides)
        restored = network(np.ascontiguousarray(tile.transpose(2, 0, 1)[None]))
        blender.add(restored[0].transpose(1, 2, 0))
    inner = slice(16, -16)  # the edge of the image is mirrored for tiles, and zero for the whole
    assert np.abs(blender.image - whole)[inner, inner].max() < SEAM


def test_less_overlap_leaves_a_seam():
    """The measured overlap is not larger than needed by more than its step."""
    profile = influence(blur(9), 128)
    overlap = receptive_field.least_overlap(profile, 128)
    assert overlap > 16
    assert receptive_field.seam(profile, 128, overlap - 8) >= SEAM
