"""What `varfix bench` measures is what a run of `varfix dir` does."""

import time

import numpy as np
import pytest
from support.identity import IdentityRestorer

from varfix.engine.evaluation import speed as bench
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.settings.types import Settings

SECONDS = 0.04
"""Time for a tile, long enough that a busy machine does not triple it."""

TILES = 12
"""Of an image of 173x115 pixels in tiles of 64."""


class SlowRestorer(IdentityRestorer):
    """Takes a known time for every tile."""

    def restore(self, tiles, prior):
        time.sleep(SECONDS * len(tiles))
        return RestoredTiles(tiles)


@pytest.fixture(scope="module")
def speed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "MAX_IMAGES", 4)
        return bench.measure(SlowRestorer(), Settings(), 0.02, tmp_path_factory.mktemp("bench"))


def test_a_synthetic_image_has_the_requested_size_and_detail_at_every_scale():
    pixels = bench.synthetic_image(0.25)
    assert pixels.shape[0] * pixels.shape[1] == pytest.approx(0.25e6, rel=0.01)
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0.0
    assert pixels.max() <= 1.0
    means = [pixels[::step, ::step].std() for step in (1, 8, 64)]
    assert min(means) > 0.05
    np.testing.assert_array_equal(pixels, bench.synthetic_image(0.25))


def test_the_time_of_the_model_alone_is_the_tiles_time(speed):
    least = TILES * SECONDS / speed.megapixels
    assert least <= speed.model_seconds < 3 * least


def test_files_to_files_takes_no_less_than_the_tiles_time(speed):
    assert speed.file_seconds >= TILES * SECONDS / speed.megapixels
    assert speed.images == 4
    assert speed.busy["infer"] > 0.3
    assert speed.memory > 10e6


def test_a_measurement_restores_a_worthwhile_number_of_images():
    assert [bench.image_count(size) for size in (0.1, 2.0, 12.0, 100.0)] == [40, 12, 2, 1]
