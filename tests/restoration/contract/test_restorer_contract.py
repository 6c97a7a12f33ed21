"""What every Restorer promises to the engine, held against each implementation."""

import numpy as np
import pytest
from support.identity import IdentityRestorer

from varfix.engine.models.card import TASKS, ModelCard
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.restoration.restorer import Retries
from varfix.engine.settings.types import Settings, TileSettings
from varfix.onnx.inference.open_model import open_restorer

SETTINGS = Settings(device="cpu", tile=TileSettings(batch=2))


@pytest.fixture(params=["identity double", "identity graph", "pair guided by the image"])
def restorer(request, shelf):
    makers = {
        "identity double": lambda: IdentityRestorer(),
        "identity graph": lambda: open_restorer(str(shelf.restore()), SETTINGS),
        "pair guided by the image": lambda: open_restorer(str(shelf.pair()), SETTINGS),
    }
    return makers[request.param]()


def tiles_for(restorer, count):
    edge = restorer.card.tile
    return np.random.default_rng(7).random((count, edge, edge, 3), np.float32)


def gray_input(size, task="auto"):
    return PriorInput(np.full((size, size, 3), 0.5, np.float32), task)


def prior_for(restorer, count):
    """The prior of a gray image, its upper left corner for every tile."""
    card = restorer.card
    maps = restorer.prior(gray_input(256))
    if maps is None:
        return None
    cells = card.tile // card.prior_stride
    return np.stack([np.resize(maps, (card.prior_channels, cells, cells))] * count)


def test_it_has_a_card(restorer):
    assert isinstance(restorer.card, ModelCard)
    assert restorer.card.tile % restorer.card.multiple == 0


def test_it_takes_tiles_of_its_size(restorer):
    assert restorer.tile == restorer.card.tile


def test_it_has_a_batch_of_at_least_one_tile(restorer):
    assert restorer.batch >= 1


def test_it_reports_the_device_and_the_precision(restorer):
    used = restorer.used
    assert all((used.requested, used.device, used.provider))
    assert used.precision in ("fp32", "fp16")


def test_a_prior_exists_exactly_for_models_with_image_guidance(restorer):
    size = restorer.card.thumbnail or 256
    maps = restorer.prior(gray_input(size))
    if restorer.card.guidance != "image":
        assert maps is None
        return
    assert maps.shape == (restorer.card.prior_channels, 16, 16)
    assert maps.dtype == np.float32
    assert np.isfinite(maps).all()


def test_every_task_has_a_prior_or_none_has(restorer):
    size = restorer.card.thumbnail or 256
    assert len({restorer.prior(gray_input(size, task)) is None for task in TASKS}) == 1


@pytest.mark.parametrize("count", [1, 2, 5])
def test_restored_tiles_look_like_tiles(restorer, count):
    tiles = tiles_for(restorer, count)
    restored = restorer.restore(tiles, prior_for(restorer, count)).pixels
    assert restored.shape == tiles.shape
    assert restored.dtype == np.float32
    assert restored.min() >= 0.0
    assert restored.max() <= 1.0


def test_an_identity_gives_back_every_bit(restorer):
    tiles = tiles_for(restorer, 3)
    tiles[0, 0, 0] = (0.0, 1.0, 1 / 255)
    restored = restorer.restore(tiles, prior_for(restorer, 3)).pixels
    assert np.array_equal(restored.view(np.int32), tiles.view(np.int32))


def test_the_given_tiles_are_left_alone(restorer):
    tiles = tiles_for(restorer, 2)
    before = tiles.copy()
    restorer.restore(tiles, prior_for(restorer, 2))
    assert np.array_equal(tiles, before)


def test_tiles_that_may_not_be_written_or_are_views_are_welcome(restorer):
    tiles = tiles_for(restorer, 4)[::2, :, ::-1]
    tiles.flags.writeable = False
    assert np.array_equal(restorer.restore(tiles, prior_for(restorer, 2)).pixels, tiles)


def test_a_tile_does_not_depend_on_its_neighbors_in_the_batch(restorer):
    tiles, prior = tiles_for(restorer, 3), prior_for(restorer, 3)
    together = restorer.restore(tiles, prior).pixels
    for index in range(3):
        row = slice(index, index + 1)
        alone = restorer.restore(tiles[row], None if prior is None else prior[row]).pixels
        assert np.array_equal(together[row], alone)


def test_nothing_was_retried_when_nothing_went_wrong(restorer):
    restored = restorer.restore(tiles_for(restorer, 2), prior_for(restorer, 2))
    assert restored.retries == Retries()
