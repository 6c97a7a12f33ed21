"""GPUs, half precision and batches, as far as a machine without a GPU can tell."""

from types import SimpleNamespace

import pytest
from support.sessions import CUDA, noise, restorer_of

from varfix.engine.errors import (
    ConfigError,
    DeviceUnavailableError,
    ModelContractError,
    ModelMissingError,
)
from varfix.engine.settings.resolve import resolve, set_layer
from varfix.engine.settings.types import ModelSettings, Settings
from varfix.onnx.inference import memory_guard as guard
from varfix.onnx.inference.hardware import Gpu
from varfix.onnx.inference.open_model import open_restorer
from varfix.onnx.inference.runtime import CPU


@pytest.mark.parametrize(
    ("fp16", "precision", "half_file", "used"),
    [
        ("ok", "auto", True, "fp16"),
        ("ok", "auto", False, "fp32"),
        ("ok", "fp32", True, "fp32"),
        ("unsafe", "auto", True, "fp32"),
        ("untested", "auto", True, "fp32"),
        ("untested", "fp16", True, "fp16"),
    ],
)
def test_half_precision_is_used_when_safe_or_asked_for(
    shelf, on_cuda, fp16, precision, half_file, used
):
    card = shelf.card(fp16=fp16)
    path = shelf.restore(card=card)
    if half_file:
        shelf.restore("hand-made.fp16.onnx", card=card)
    codes = []
    settings = Settings(model=ModelSettings(precision=precision))
    restorer = open_restorer(str(path), settings, warn=lambda code, text: codes.append(code))
    assert restorer.used.precision == used
    assert ("hand-made.fp16.onnx" in dict(on_cuda)) == (used == "fp16")
    assert codes == (["fp16_unchecked"] if (fp16, used) == ("untested", "fp16") else [])


def test_half_precision_asked_for_without_its_file_is_an_error(shelf, on_cuda):
    settings = Settings(model=ModelSettings(precision="fp16"))
    with pytest.raises(
        ModelMissingError, match=r"fp16 variant not found \(hand-made\.fp16\.onnx\)"
    ):
        open_restorer(str(shelf.restore()), settings)


def test_cuda_is_an_error_where_there_is_none(shelf, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(DeviceUnavailableError, match="--device cuda: ONNX Runtime has no"):
        open_restorer(str(shelf.restore()), Settings(device="cuda"))


@pytest.mark.parametrize(
    ("free", "vram", "tile", "batch"),
    [
        (80_000, {"1": 900, "8": 3100}, 64, 32),
        (4_000, {"1": 900, "8": 3100}, 64, 8),
        (4_000, {"1": 900, "8": 3100}, 128, 1),
        (500, {"1": 900, "8": 3100}, 64, 1),
        (4_000, {"1": 900}, 64, 2),
        (4_000, {}, 64, 4),
        (None, {"1": 900, "8": 3100}, 64, 4),
    ],
)
def test_the_automatic_batch_fits_the_free_memory(shelf, monkeypatch, free, vram, tile, batch):
    found = None if free is None else Gpu("some", free, free)
    monkeypatch.setattr(guard, "find_gpu", lambda index: found)
    assert guard.estimated_batch(shelf.card(vram_mb=vram), CUDA, tile) == batch
    assert guard.estimated_batch(shelf.card(vram_mb=vram), CPU, tile) == 1


def test_ordinary_failures_are_not_memory():
    assert not guard.is_out_of_memory(RuntimeError("Got invalid dimensions for input: tile"))
    assert not guard.is_out_of_memory(RuntimeError("CUDA failure 222: provided PTX"))
    assert guard.is_out_of_memory(MemoryError())


def test_sessions_that_fail_in_odd_ways_still_name_the_model(shelf):
    def fail(names, feeds):
        raise RuntimeError

    restorer, _ = restorer_of(shelf, SimpleNamespace(run=fail), device=CPU)
    with pytest.raises(ModelContractError, match="hand-made: the graph failed: RuntimeError"):
        restorer.restore(noise(1), None)


def test_an_overlap_of_more_than_a_third_of_the_tile_is_refused(shelf):
    settings = resolve([set_layer(["device=cpu", "tile.overlap=30"])]).settings
    with pytest.raises(ConfigError, match=r"more than a third of tile\.size, 64"):
        open_restorer(str(shelf.restore()), settings)
