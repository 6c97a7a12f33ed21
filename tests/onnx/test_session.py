"""A model is opened where it was asked to run, and restores tiles of its own size."""

import sys

import numpy as np
import pytest
from support.sessions import ON_CPU, noise, text_of

from varfix.engine.errors import (
    ConfigError,
    DeviceError,
    ModelContractError,
    ModelMissingError,
    NonFiniteError,
)
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.settings.types import ModelSettings, Settings, TileSettings
from varfix.onnx.inference.hardware import usable_cores
from varfix.onnx.inference.open_model import open_restorer
from varfix.onnx.inference.runtime import CPU, SessionPlan, start


def test_a_model_is_restored_at_its_own_tile_in_fp32_on_the_cpu(shelf):
    restorer = open_restorer(str(shelf.restore()), ON_CPU)
    tiles = noise(2)
    assert np.array_equal(restorer.restore(tiles, None).pixels, tiles)
    assert restorer.tile == 64
    used = restorer.used
    assert (used.requested, used.device, used.precision) == ("cpu", "cpu", "fp32")
    assert used.provider == "CPUExecutionProvider"


def test_another_tile_size_is_pinned_into_the_graph(shelf):
    settings = Settings(device="cpu", tile=TileSettings(size=96))
    restorer = open_restorer(str(shelf.restore()), settings)
    tiles = noise(1, 96)
    assert np.array_equal(restorer.restore(tiles, None).pixels, tiles)
    with pytest.raises(ModelContractError):
        restorer.restore(noise(1, 64), None)


def test_on_a_cpu_smaller_tiles_of_the_cards_multiples_run_too(shelf):
    restorer = open_restorer(str(shelf.pair()), ON_CPU)
    assert (restorer.tile, restorer.tile_step) == (64, 16)
    for height, width in ((64, 64), (16, 48), (32, 16)):
        tiles = np.random.default_rng(1).random((2, height, width, 3), np.float32)
        prior = np.zeros((2, 3, height // 16, width // 16), np.float32)
        assert np.array_equal(restorer.restore(tiles, prior).pixels, tiles)


def sizes_written_in(shelf):
    return shelf.restore(takes=["batch", 3, 64, 64], gives=["batch", 3, 64, 64])


@pytest.mark.parametrize(
    ("model", "asked"),
    [
        (lambda shelf: shelf.restore(), 64),
        (lambda shelf: shelf.restore(card=shelf.card(tiling="discouraged")), None),
        (lambda shelf: shelf.restore(card=shelf.card(guidance="tile")), None),
        (sizes_written_in, None),
        (lambda shelf: shelf.foreign(), None),
    ],
    ids=["asked for", "sees more than a tile", "learns from the tile", "written in", "no card"],
)
@pytest.mark.filterwarnings("ignore:.*tiling_discouraged")
def test_tiles_keep_their_size(shelf, model, asked):
    settings = Settings(device="cpu", tile=TileSettings(size=asked))
    restorer = open_restorer(str(model(shelf)), settings)
    assert restorer.tile_step == restorer.tile


def test_on_a_gpu_all_tiles_have_one_shape(shelf, on_cuda):
    restorer = open_restorer(str(shelf.restore()), Settings())
    assert restorer.tile_step == restorer.tile
    with pytest.raises(DeviceError):
        restorer.restore(noise(1, 32), None)


def test_a_tile_size_the_model_cannot_take_is_refused_with_the_nearest(shelf):
    settings = Settings(device="cpu", tile=TileSettings(size=100))
    with pytest.raises(ConfigError) as caught:
        open_restorer(str(shelf.restore()), settings)
    assert text_of(caught.value) == (
        "tile.size: 100 is not a multiple of 16, which hand-made requires; use 96 or 112"
    )


def test_a_graph_with_sizes_written_in_takes_only_those(shelf):
    shape = ["batch", 3, 64, 64]
    path = shelf.restore(takes=shape, gives=shape)
    assert open_restorer(str(path), ON_CPU).tile == 64
    with pytest.raises(ConfigError, match="supports tiles of 64 only, got 96"):
        open_restorer(str(path), Settings(device="cpu", tile=TileSettings(size=96)))


def test_a_graph_with_a_batch_written_in_gets_one_tile_at_a_time(shelf):
    shape = [1, 3, 64, 64]
    settings = Settings(device="cpu", tile=TileSettings(batch=8))
    restorer = open_restorer(str(shelf.restore(takes=shape, gives=shape)), settings)
    tiles = noise(3)
    assert restorer.batch == 1
    assert np.array_equal(restorer.restore(tiles, None).pixels, tiles)


@pytest.mark.parametrize(("asked", "batch"), [(None, 1), (5, 5)])
def test_the_batch_is_the_one_asked_for_or_one_on_a_cpu(shelf, asked, batch):
    settings = Settings(device="cpu", tile=TileSettings(batch=asked))
    assert open_restorer(str(shelf.restore()), settings).batch == batch


def test_fp16_on_a_cpu_is_not_used_and_causes_a_warning(shelf):
    codes = []
    settings = Settings(device="cpu", model=ModelSettings(precision="fp16"))
    restorer = open_restorer(
        str(shelf.restore()), settings, warn=lambda code, text: codes.append(code)
    )
    assert restorer.used.precision == "fp32"
    assert codes == ["precision_fp32"]


def test_warnings_without_a_receiver_become_python_warnings(shelf):
    settings = Settings(device="cpu", model=ModelSettings(precision="fp16"))
    with pytest.warns(UserWarning, match="fp16 gains nothing on a CPU"):
        open_restorer(str(shelf.restore()), settings)


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"tasks": ("auto", "rain")}, "task_untrained"),
        ({"tasks": ("auto", "noise"), "tiling": "discouraged"}, "tiling_discouraged"),
        ({"tasks": ("auto", "noise")}, None),
        ({"tasks": ("auto",)}, None),
    ],
)
def test_limits_of_a_model_cause_a_warning(shelf, facts, code):
    codes = []
    settings = Settings(device="cpu", model=ModelSettings(task="noise"))
    path = shelf.restore(card=shelf.card(**facts))
    open_restorer(str(path), settings, warn=lambda code, text: codes.append(code))
    assert codes == ([code] if code else [])


@pytest.mark.parametrize(
    ("facts", "limit"),
    [
        ({"tiling": "supported"}, ""),
        ({"tiling": "discouraged"}, "uses global context; neighboring tiles may differ in tone"),
        (
            {"tiling": "discouraged", "reach": 300, "tile": 256},
            "uses context beyond a tile of 256; neighboring tiles may differ",
        ),
    ],
)
def test_what_a_model_needs_beyond_its_tiles_is_said_as_it_is(shelf, facts, limit):
    assert shelf.card(**facts).tiling_limit == limit


def test_threads_are_the_cores_and_do_not_spin(shelf, monkeypatch):
    import onnxruntime

    entries = {}

    class Options(onnxruntime.SessionOptions):
        def add_session_config_entry(self, key, value):
            entries[key] = value
            super().add_session_config_entry(key, value)

    monkeypatch.setattr(onnxruntime, "SessionOptions", Options)
    opened = start(shelf.restore(), SessionPlan(CPU))
    assert isinstance(opened, onnxruntime.InferenceSession)
    assert opened.get_session_options().intra_op_num_threads == usable_cores()
    assert entries["session.intra_op.allow_spinning"] == "0"


def test_opening_a_model_does_not_need_the_onnx_package(shelf, monkeypatch):
    path = shelf.pair()
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert open_restorer(str(path), ON_CPU).card.name == "hand-made"


def test_the_prior_of_an_image_reaches_its_tiles(shelf):
    restorer = open_restorer(str(shelf.pair()), ON_CPU)
    thumbnail = np.full((256, 256, 3), 0.25, np.float32)
    tiles = noise(2) / 2
    for task, shift in (("auto", 0.0), ("noise", 0.25)):
        maps = restorer.prior(PriorInput(thumbnail, task))
        assert maps.shape == (3, 16, 16)
        assert maps.dtype == np.float32
        prior = np.stack([maps[:, :4, :4]] * 2)
        assert np.allclose(restorer.restore(tiles, prior).pixels, tiles + shift, atol=1e-6)


def test_a_pair_without_its_prior_graph_is_incomplete(shelf):
    path = shelf.pair()
    path.with_name("pair.prior.onnx").unlink()
    with pytest.raises(ModelMissingError, match=r"pair\.prior\.onnx not found next to it"):
        open_restorer(str(path), ON_CPU)


def test_the_prior_graph_of_another_model_is_refused(shelf):
    from varfix.onnx.files.card import read_card, write_card

    path = shelf.pair()
    prior = path.with_name("pair.prior.onnx")
    card = read_card(prior)
    write_card(prior, shelf.card(guidance="image", thumbnail=256, prior_channels=3, about="later"))
    with pytest.raises(ModelContractError, match=r"pair\.prior\.onnx: belongs to another model"):
        open_restorer(str(path), ON_CPU)
    write_card(prior, card)
    assert open_restorer(str(path), ON_CPU)


def test_a_prior_that_is_no_number_fails_the_image(shelf):
    restorer = open_restorer(str(shelf.pair()), ON_CPU)
    thumbnail = np.full((256, 256, 3), np.nan, np.float32)
    with pytest.raises(NonFiniteError):
        restorer.prior(PriorInput(thumbnail, "noise"))
