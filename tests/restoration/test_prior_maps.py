"""What tiles learn from the whole image depends on the place in the image alone."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varfix.engine.restoration.prior_maps import sample_prior, sampling_matrix

MAPS = np.random.default_rng(0).random((5, 16, 16), np.float32)


@given(st.integers(16, 4000), st.integers(16, 4000), st.data())
def test_a_block_gets_the_same_sample_whichever_tile_it_is_in(height, width, data):
    block = (data.draw(st.integers(0, height // 16)), data.draw(st.integers(0, width // 16)))
    samples = []
    for _ in range(2):
        sides = tuple(16 * data.draw(st.integers(1, 20)) for _ in block)
        origin = [
            16 * max(0, place - data.draw(st.integers(0, side // 16 - 1)))
            for place, side in zip(block, sides, strict=True)
        ]
        cell = [place - first // 16 for place, first in zip(block, origin, strict=True)]
        samples.append(sample_prior(MAPS, (height, width), tuple(origin), sides, 16)[:, *cell])
    np.testing.assert_allclose(samples[0], samples[1], atol=1e-6)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 100), st.integers(1, 8))
def test_constant_maps_stay_constant(height, width, start, cells):
    maps = np.full((2, 16, 16), 0.25, np.float32)
    piece = sample_prior(maps, (height, width), (16 * start, start), (16 * cells, 16), 16)
    assert piece.shape == (2, cells, 1)
    np.testing.assert_allclose(piece, 0.25, atol=1e-6)


@pytest.mark.parametrize("side", [128, 256, 512, 720])
def test_an_image_that_is_one_tile_gets_the_maps_bilinearly_resized(side):
    piece = sample_prior(MAPS, (side, side), (0, 0), (side, side), 16)
    cells = side // 16
    expected = cv2.resize(MAPS.transpose(1, 2, 0), (cells, cells), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(piece, expected.transpose(2, 0, 1), atol=2e-6)


def test_at_one_block_per_cell_the_maps_come_back_as_they_are():
    np.testing.assert_allclose(
        sample_prior(MAPS, (256, 256), (0, 0), (256, 256), 16), MAPS, atol=1e-6
    )


def test_beyond_the_image_the_border_is_repeated():
    piece = sample_prior(MAPS, (64, 64), (0, 0), (256, 256), 16)
    np.testing.assert_allclose(piece[:, 5:, 5:], np.broadcast_to(MAPS[:, -1:, -1:], (5, 11, 11)))


def test_height_and_width_are_not_mistaken_for_each_other():
    rows = np.tile(np.arange(16, dtype=np.float32)[:, None], (1, 1, 16))
    piece = sample_prior(rows, (1024, 256), (512, 0), (64, 64), 16)[0]
    assert np.array_equal(piece, np.repeat(piece[:, :1], 4, axis=1))
    np.testing.assert_allclose(piece[:, 0], (512 + 16 * (np.arange(4) + 0.5)) / 64 - 0.5, atol=1e-5)


@given(st.integers(0, 9000), st.integers(1, 40), st.integers(1, 9000), st.integers(1, 32))
def test_sampling_weights_are_never_negative_and_sum_to_one(start, count, whole, cells):
    weights = sampling_matrix(start, count, 16, whole, cells)
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-5)
