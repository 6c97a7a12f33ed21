"""An image goes through a restorer whole, however it is cut."""

import tracemalloc
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cards import GUIDED
from support.identity import IDENTITY_CARD, IdentityRestorer

from varfix.engine.errors import NonFiniteError
from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.prior_maps import sampling_matrix
from varfix.engine.restoration.restore_image import restore_image, tile_grid_for
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.restoration.tone_lock import CELL
from varfix.engine.settings.types import ModelSettings, Settings, TileSettings


@dataclass
class Recorder(IdentityRestorer):
    """Inverts colors, and writes down how it was called."""

    calls: list[int] = field(default_factory=list)
    shrinks: bool = False

    def restore(self, tiles, prior):
        assert tiles.dtype == np.float32
        self.calls.append(len(tiles))
        if self.shrinks:
            self.batch = 1
        return RestoredTiles(1.0 - tiles)


@dataclass
class Painter(IdentityRestorer):
    """Paints each block of a tile with the first map's sample there."""

    card: ModelCard = GUIDED
    seen: list[tuple] = field(default_factory=list)

    def prior(self, prior_input):
        self.seen.append((prior_input.thumbnail, prior_input.task))
        rows, columns = np.mgrid[0:16, 0:16].astype(np.float32)
        return np.stack([(rows * 3 + columns) / 60, rows])

    def restore(self, tiles, prior):
        assert prior.shape == (len(tiles), 2, *(side // 16 for side in tiles.shape[1:3]))
        return RestoredTiles(np.repeat(prior[:, 0].repeat(16, 1).repeat(16, 2)[..., None], 3, 3))


def image(height=150, width=210, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


@pytest.mark.parametrize("shape", [(1, 1), (10, 300), (64, 64), (150, 210)])
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_identity_returns_the_image_bit_for_bit(shape, strength):
    pixels = image(*shape)
    result = restore_image(IdentityRestorer(), pixels, Settings(strength=strength))
    assert np.array_equal(result, pixels)


def test_at_strength_zero_nothing_runs_and_the_input_is_returned():
    restorer, pixels = Recorder(), image()
    assert restore_image(restorer, pixels, Settings(strength=0.0)) is pixels
    assert restorer.calls == []


def test_at_full_strength_the_models_result_comes_back():
    pixels = image()
    result = restore_image(Recorder(), pixels, Settings())
    np.testing.assert_allclose(result, 1.0 - pixels, atol=1e-6)


def test_strength_blends_with_the_source():
    pixels = image()
    result = restore_image(Recorder(), pixels, Settings(strength=0.25))
    np.testing.assert_allclose(result, 0.75 * pixels + 0.25 * (1.0 - pixels), atol=1e-6)


@pytest.mark.parametrize("card", [IDENTITY_CARD, GUIDED])
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
@given(st.integers(1, 200), st.integers(1, 90), st.sampled_from([1, 3, 50]))
def test_a_source_that_is_spent_becomes_the_same_result(card, strength, height, width, batch):
    """Tiles smear over their edges: what was overwritten too early would show."""

    class Smearing(IdentityRestorer):
        def restore(self, tiles, prior):
            return RestoredTiles(
                0.5 * tiles + 0.3 * np.roll(tiles, 7, 1) + 0.2 * np.roll(tiles, -9, (1, 2))
            )

    restorer, pixels = Smearing(card=card, batch=batch), image(height, width)
    wanted = restore_image(restorer, pixels, Settings(strength=strength))
    spent = pixels.copy()
    result = restore_image(restorer, spent, Settings(strength=strength), overwrite_input=True)
    assert result is spent
    assert np.array_equal(result, wanted)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_the_source_is_not_changed_unasked(strength):
    pixels = image()
    before = pixels.copy()
    restore_image(Recorder(), pixels, Settings(strength=strength))
    assert np.array_equal(pixels, before)


def test_tiles_come_in_batches_of_the_size_the_restorer_takes():
    restorer = Recorder(batch=4)
    tiles = len(tile_grid_for(restorer, (150, 210), Settings()))
    restore_image(restorer, image(), Settings())
    assert restorer.calls == [4] * (tiles // 4) + [tiles % 4] * (tiles % 4 > 0)


def test_a_batch_that_shrinks_during_the_image_is_respected():
    restorer = Recorder(batch=4, shrinks=True)
    tiles = len(tile_grid_for(restorer, (150, 210), Settings()))
    restore_image(restorer, image(), Settings())
    assert restorer.calls == [4] + [1] * (tiles - 4)


def test_progress_counts_tiles_up_to_all():
    reported = []
    restorer = Recorder(batch=5)
    restore_image(restorer, image(), Settings(), lambda *count: reported.append(count))
    total = len(tile_grid_for(restorer, (150, 210), Settings()))
    assert reported == [(min(5 * (i + 1), total), total) for i in range(-(-total // 5))]


def test_the_overlap_is_the_cards_unless_asked_for():
    restorer = Recorder()
    assert tile_grid_for(restorer, (64, 112), Settings()).columns.starts == (0, 48)
    wider = Settings(tile=TileSettings(overlap=20))
    assert len(tile_grid_for(restorer, (64, 112), wider).columns.starts) == 3


@pytest.mark.parametrize(
    ("shape", "sides"),
    [((10, 50), (16, 64)), ((1, 1), (16, 16)), ((64, 64), (64, 64)), ((70, 40), (80, 48))],
)
def test_tiles_suit_the_image_where_the_model_takes_any(shape, sides):
    seen = []

    class Sized(IdentityRestorer):
        def restore(self, tiles, prior):
            seen.append(tiles.shape[1:3])
            return RestoredTiles(1.0 - tiles)

    pixels = image(*shape)
    result = restore_image(Sized(tile_step=16), pixels, Settings())
    assert set(seen) == {sides}
    np.testing.assert_allclose(result, 1.0 - pixels, atol=1e-6)


@pytest.mark.parametrize(("overwrite_input", "share"), [(False, 1.0), (True, 0.0)])
def test_memory_holds_a_row_of_tiles_and_not_all_of_them(overwrite_input, share):
    pixels = image(900, 900)
    restorer = IdentityRestorer(batch=2)
    settings = Settings(tile=TileSettings(overlap=20))
    restore_image(restorer, pixels[:64, :64], settings)
    tracemalloc.start()
    try:
        restore_image(restorer, pixels, settings, overwrite_input=overwrite_input)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    strip = 64 * 900 * 12
    cells = CELL * 900 * 12  # a row of cells, of which source, result and change are measured
    assert peak < share * pixels.nbytes + 2 * strip + 5 * cells


def test_the_prior_runs_once_for_an_image():
    restorer = Painter()
    pixels = np.full((150, 210, 3), 0.5, np.float32)
    restore_image(restorer, pixels, Settings(model=ModelSettings(task="rain")))
    ((thumbnail, task),) = restorer.seen
    assert task == "rain"
    np.testing.assert_allclose(thumbnail, np.full((32, 32, 3), 0.5), atol=1e-6)


def test_given_maps_replace_the_prior_of_the_image():
    restorer = Painter()
    maps = np.full((2, 16, 16), 0.25, np.float32)
    result = restore_image(restorer, image(), Settings(), maps=maps)
    np.testing.assert_allclose(result, np.full((150, 210, 3), 0.25), atol=1e-6)
    assert restorer.seen == []


@pytest.mark.parametrize("step", [16, 64])
@pytest.mark.parametrize("shape", [(150, 210), (64, 500), (33, 20), (70, 100)])
def test_guided_tiles_agree_wherever_they_overlap(shape, step):
    """Blocks lie at the same places in all tiles, so the result shows no tile at all."""
    height, width = shape
    result = restore_image(Painter(tile_step=step), image(height, width), Settings())
    rows, columns = (
        sampling_matrix(0, -(-side // 16), 16, side, 16) @ np.arange(16, dtype=np.float32)
        for side in shape
    )
    blocks = (3 * rows[:, None] + columns[None, :]) / 60
    expected = blocks.repeat(16, 0).repeat(16, 1)[:height, :width]
    np.testing.assert_allclose(result, np.repeat(expected[..., None], 3, 2), atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (150, 210), (33, 20)])
def test_what_a_network_spoils_at_its_own_edges_is_not_in_the_image(shape):
    class Frayed(Painter):
        def restore(self, tiles, prior):
            frayed = tiles.copy()
            frayed[:, [0, 1, -2, -1]] = frayed[:, :, [0, 1, -2, -1]] = 0.0
            return RestoredTiles(frayed)

    pixels = image(*shape)
    np.testing.assert_allclose(restore_image(Frayed(), pixels, Settings()), pixels, atol=1e-6)


def test_models_without_guidance_get_no_prior():
    class Bare(IdentityRestorer):
        def prior(self, prior_input):
            raise AssertionError("asked for a prior")

        def restore(self, tiles, prior):
            assert prior is None
            return RestoredTiles(tiles)

    pixels = image()
    assert np.array_equal(restore_image(Bare(), pixels, Settings()), pixels)


def test_invalid_values_end_the_image():
    class Broken(IdentityRestorer):
        def restore(self, tiles, prior):
            raise NonFiniteError("the model produced invalid values in the image.")

    with pytest.raises(NonFiniteError, match="in the image"):
        restore_image(Broken(), image(), Settings())


def test_an_invalid_tile_is_named_by_its_place_in_the_image():
    class BrokenAt(IdentityRestorer):
        calls = 0

        def restore(self, tiles, prior):
            self.calls += 1
            if self.calls == 2:
                raise NonFiniteError("tile 1 of this batch", tile=1)
            return RestoredTiles(tiles)

    pixels = np.zeros((100, 150, 3), np.float32)  # 2 rows of 3 tiles, four at a time
    with pytest.raises(NonFiniteError, match="in tile 1,2 even in fp32"):
        restore_image(BrokenAt(), pixels, Settings())
