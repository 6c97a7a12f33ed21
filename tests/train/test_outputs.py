"""Sheets, curves, and initial weights."""

import numpy as np
import pytest
import torch
from PIL import Image

from varfix.engine.errors import (
    ConfigError,
    ModelContractError,
    ModelMissingError,
    NothingToDoError,
)
from varfix.engine.train.checkpoint import save_weights
from varfix.engine.train.data.photos import load_photos
from varfix.engine.train.degradations.mix import DEGRADATIONS
from varfix.engine.train.initial_weights import load_initial
from varfix.engine.train.logs import degradation_preview as preview
from varfix.engine.train.logs.curves import draw_curves, read_curves
from varfix.engine.train.logs.sheet import Cell, save_sheet
from varfix.engine.train.loop import Trainer, run_training
from varfix.engine.train.request import TrainRequest


def test_a_sheet_shows_its_cells_in_their_places(tmp_path):
    colors = [torch.full((3, 20, 30), value) for value in (0.0, 0.5, 1.0)]
    rows = [[Cell("a", colors[0]), Cell("b", colors[2])], [Cell("c", colors[1])]]
    save_sheet(rows, tmp_path / "new" / "sheet.png")
    pixels = np.asarray(Image.open(tmp_path / "new" / "sheet.png"))
    assert pixels.shape == (6 + 2 * (16 + 20 + 6), 6 + 2 * (30 + 6), 3)
    assert pixels[6 + 16 + 10, 6 + 15].tolist() == [0, 0, 0]
    assert pixels[6 + 16 + 10, 6 + 36 + 15].tolist() == [255, 255, 255]
    assert pixels[6 + 42 + 16 + 10, 6 + 15].tolist() == [128, 128, 128]
    assert pixels[6:20, 6:20].max() > 200  # the label


def test_a_preview_has_a_sheet_for_every_degradation_from_weak_to_strong(
    folder, tmp_path, monkeypatch
):
    for name, value in {"DRAWN": 6, "SHOWN": 3, "ROWS": 1, "SIDE": 64}.items():
        monkeypatch.setattr(preview, name, value)
    labels = []
    monkeypatch.setattr(preview, "save_sheet", lambda rows, path: labels.extend(rows))
    paths = list(preview.write_previews(load_photos([folder]), tmp_path))
    assert [path.stem for path in paths] == [name.replace("+", "-") for name in DEGRADATIONS]
    for name, row in zip(DEGRADATIONS, labels, strict=True):
        assert row[0].label == "clean"
        levels = [
            float(cell.label.removeprefix(f"{name}, ").removesuffix(" dB")) for cell in row[1:]
        ]
        assert levels == sorted(levels, reverse=True)
        assert len(levels) == 3


def test_curves_are_read_by_stage_with_waiting_as_a_share(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(
        '{"stage": "a", "step": 0, "time": 1.0, "l1": 0.5, "wait": 0.5, "took": 2.0}\n'
        '{"stage": "a", "step": 1, "time": 2.0, "l1": 0.4, "wait": 0.0, "took": 2.0}\n'
        '{"stage": "b", "step": 0, "time": 3.0, "norm": 2.0, "wait": 0.1, "took": 0.1}\n'
    )
    assert read_curves(metrics) == {
        "a": {"l1": ([0, 1], [0.5, 0.4]), "wait": ([0, 1], [0.25, 0.0])},
        "b": {"norm": ([0], [2.0]), "wait": ([0], [1.0])},
    }
    draw_curves(metrics, tmp_path / "curves.png")
    assert np.asarray(Image.open(tmp_path / "curves.png").convert("L")).std() > 1


def test_curves_of_long_and_broken_runs_are_drawn_too(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    lines = [f'{{"stage": "a", "step": {i}, "norm": {i % 7}}}\n' for i in range(1003)]
    metrics.write_text("".join([*lines, '{"stage": "a", "step": 1003, "norm": NaN}\n']))
    draw_curves(metrics, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


def test_curves_without_metrics_are_an_error(tmp_path):
    with pytest.raises(NothingToDoError, match="no steps"):
        draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")


@pytest.fixture
def exported(tmp_path, tiny):
    """A network and an exported model with its weights, large ones in half precision."""
    from onnx import helper, numpy_helper, save

    torch.manual_seed(9)
    network = tiny.build()
    for part in ("restorer", "prior"):
        weights = []
        for name, value in getattr(network, part).state_dict().items():
            if name.startswith("vqvae.decoder"):
                continue
            array, full = value.numpy(), f"network.{name}"
            if array.size > 100:
                array, full = array.astype(np.float16), f"{full}.half"
            weights.append(numpy_helper.from_array(array, full))
        graph = helper.make_graph([], part, [], [], weights)
        suffix = "" if part == "restorer" else ".prior"
        save(helper.make_model(graph), tmp_path / f"net{suffix}.onnx")
    return network, tmp_path / "net.onnx"


def test_weights_of_an_exported_model_are_loaded_by_name(exported, tiny):
    network, path = exported
    fresh = tiny.build()
    missing = load_initial(fresh, path)
    assert missing
    assert all(name.startswith("prior.vqvae.decoder.") for name in missing)
    own, theirs = fresh.state_dict(), network.state_dict()
    for name in own.keys() - set(missing):
        torch.testing.assert_close(own[name], theirs[name], atol=1e-3, rtol=1e-3)


def test_weights_of_another_run_are_loaded_whole(tiny, tmp_path):
    network, fresh = tiny.build(), tiny.build()
    save_weights(network, tmp_path / "weights.safetensors")
    assert load_initial(fresh, tmp_path / "weights.safetensors") == []
    assert all(
        torch.equal(value, fresh.state_dict()[name]) for name, value in network.state_dict().items()
    )


def test_weights_of_another_network_are_rejected(exported, tiny, tmp_path):
    with pytest.raises(ModelContractError, match="holds no weights of this network"):
        load_initial(torch.nn.Linear(2, 2), exported[1])
    other = tiny.build()
    other.restorer.conv_in = torch.nn.Conv2d(24, 9, 3)
    with pytest.raises(ModelContractError, match=r"restorer\.conv_in\.weight is \(8, 24, 3, 3\)"):
        load_initial(other, exported[1])
    with pytest.raises(ModelMissingError):
        load_initial(other, tmp_path / "no.onnx")
    (tmp_path / "net.prior.onnx").unlink()
    with pytest.raises(ModelContractError, match=r"prior\..* is missing"):
        load_initial(tiny.build(), exported[1])


def test_a_run_begins_with_given_weights_but_resumes_with_its_own(
    folder, tiny, tmp_path, monkeypatch, weights
):
    first = tiny.build()
    save_weights(first, tmp_path / "first.safetensors")
    monkeypatch.setattr("varfix.engine.train.loop.trainable_named", lambda name: tiny.trainable())
    initial = []
    run = Trainer.run
    monkeypatch.setattr(Trainer, "run", lambda self: (initial.append(state(self)), run(self))[1])
    steps = ["vqvae.steps=0", "prior.steps=0", *tiny.RECIPE[4:], "sample_every=0"]
    request = TrainRequest(
        tmp_path / "run", [folder], overrides=steps, initial=[tmp_path / "first.safetensors"]
    )
    run_training(request)
    run_training(request)
    assert all(torch.equal(initial[0][name], value) for name, value in first.state_dict().items())
    assert not all(torch.equal(initial[0][name], initial[1][name]) for name in initial[0])
    ended = weights(tmp_path / "run")
    assert all(torch.equal(ended[name], initial[1][name]) for name in ended)


def test_trained_weights_are_not_initialized_again(folder, tiny, tmp_path, monkeypatch, weights):
    first = tiny.build()
    save_weights(first, tmp_path / "first.safetensors")
    monkeypatch.setattr("varfix.engine.train.loop.trainable_named", lambda name: tiny.trainable())
    initial = []
    monkeypatch.setattr(
        Trainer, "_optimizer", lambda self, *_: initial.append(state(self)) or 1 / 0
    )
    request = TrainRequest(
        tmp_path / "run", [folder], overrides=tiny.RECIPE, initial=[tmp_path / "first.safetensors"]
    )
    with pytest.raises(ZeroDivisionError):
        run_training(request)
    assert all(torch.equal(initial[0][name], value) for name, value in first.state_dict().items())


def test_stages_that_need_weights_that_an_exported_model_lacks_are_rejected(
    folder, exported, tiny, tmp_path, monkeypatch
):
    monkeypatch.setattr("varfix.engine.train.loop.trainable_named", lambda name: tiny.trainable())
    request = TrainRequest(tmp_path / "run", [folder], overrides=tiny.RECIPE, initial=[exported[1]])
    with pytest.raises(ConfigError, match='lacks the weights that stage "vqvae" requires') as error:
        run_training(request)
    assert error.value.hint == "skip it: --set vqvae.steps=0 --set prior.steps=0"


def state(trainer):
    return {name: value.clone() for name, value in trainer.averaged.state_dict().items()}


def test_a_run_of_an_earlier_version_is_not_resumed(folder, tiny, tmp_path):
    torch.save({"done": {"vqvae": 3}, "model": {}}, tmp_path / "state.pt")
    with pytest.raises(ConfigError, match=r"state\.pt: cannot be resumed") as error:
        tiny.trainer(folder, tmp_path)
    assert error.value.hint == "give another folder: --out DIR"
