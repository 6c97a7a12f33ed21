"""Tiles go to the graph for what is wrong with their image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.sessions import CUDA, ON_CPU, Faulty, noise, text_of

from varfix.engine.errors import ConfigError, ModelContractError
from varfix.engine.models.card import SPECIALISTS, TASKS
from varfix.engine.networks.varformer_s.decisions import NOT_PLAIN
from varfix.engine.networks.varformer_s.model import build_varformer_s
from varfix.engine.networks.varformer_s.specialist import SpecialistNetwork
from varfix.engine.restoration.findings import KINDS
from varfix.engine.restoration.restorer import Retries
from varfix.engine.train.checkpoint import load_weights, save_weights
from varfix.engine.train.initial_weights import load_initial
from varfix.onnx import models
from varfix.onnx.export.specialist import export_specialist, model_path
from varfix.onnx.export.varformer_s import export_varformer_s
from varfix.onnx.files.card import specialist_path, specialist_paths, verify_model
from varfix.onnx.files.model_files import model_digest
from varfix.onnx.inference.open_model import open_restorer
from varfix.onnx.inference.restorer import Graphs, OnnxRestorer, Placement
from varfix.onnx.inference.signature import Signature
from varfix.onnx.inference.specialists import LEAST_ALONE, Specialists


class Painting:
    """A session whose results are all of one value."""

    def __init__(self, value):
        self.value, self.batches = value, []

    def run(self, names, feeds):
        self.batches.append(len(feeds["tile"]))
        return [np.full_like(feeds["tile"], self.value)]


def maps(*kinds, value=0.98):
    """Prior maps (10, 4, 4) of an image with these kinds."""
    prior = np.zeros((10, 4, 4), np.float32)
    for kind in kinds:
        prior[10 - len(KINDS) + KINDS.index(kind)] = value
    return prior


@pytest.fixture
def graphs():
    values = {"restore": 0.1, "denoise": 0.2, "derain": 0.3, "deblur": 0.4}
    return {name: Painting(value) for name, value in values.items()}


@pytest.fixture
def restorer(shelf, graphs):
    specialists = Specialists({name: lambda name=name: graphs[name] for name in SPECIALISTS})
    opened = Graphs(
        graphs["restore"], Signature("tile", "restored", (), None), specialists=specialists
    )
    placement = Placement("auto", CUDA, tile=64, step=64, batch=8)
    return OnnxRestorer(shelf.card(), opened, placement, lambda code, text: None)


@pytest.mark.parametrize(
    ("kinds", "value"),
    [
        (["noise"], 0.2),
        (["rain"], 0.3),
        (["snow"], 0.3),
        (["rain", "snow"], 0.3),
        (["blur"], 0.4),
        (["noise", "rain"], 0.1),
        (["noise", "blur"], 0.1),
        (["haze"], 0.1),
        (["haze", "noise"], 0.1),
    ],
)
def test_an_image_goes_to_the_specialist_of_all_that_is_wrong_with_it(restorer, kinds, value):
    prior = np.stack([maps(*kinds)] * 2)
    assert np.allclose(restorer.restore(noise(2), prior).pixels, value)


def test_an_image_with_nothing_wrong_stays_as_it_is(restorer, graphs):
    tiles = noise(3)
    restored = restorer.restore(tiles, np.stack([maps(), maps("noise"), maps()])).pixels
    assert np.array_equal(restored[[0, 2]], tiles[[0, 2]])
    assert np.allclose(restored[1], 0.2)
    assert graphs["restore"].batches == []


def test_doubts_alone_go_to_the_restore_graph(restorer):
    assert np.allclose(restorer.restore(noise(1), maps("noise", value=0.3)[None]).pixels, 0.1)


def test_the_prior_graph_and_the_runtime_agree_on_what_plain_is():
    assert NOT_PLAIN < LEAST_ALONE["rain"] < 1.0


def test_rain_that_is_not_plain_goes_to_the_restore_graph(restorer):
    kinds = (["rain"], ["snow"], ["rain", "snow"])
    prior = np.stack([maps(*present, value=0.95) for present in kinds])
    restored = restorer.restore(noise(3), prior).pixels
    assert np.allclose(restored.mean((1, 2, 3)), [0.1, 0.3, 0.3])


def test_a_doubtful_kind_does_not_count(restorer):
    prior = np.stack([np.maximum(maps("noise"), maps("haze", value=0.4))])
    assert np.allclose(restorer.restore(noise(1), prior).pixels, 0.2)


def test_tiles_of_several_images_are_restored_in_their_order(restorer):
    prior = np.stack([maps("noise"), maps("haze"), maps("snow"), maps("noise")])
    restored = restorer.restore(noise(4), prior).pixels
    assert np.allclose(restored.mean((1, 2, 3)), [0.2, 0.1, 0.3, 0.2])


def test_a_specialist_is_started_once_and_only_when_required(shelf, graphs):
    started = []

    def start():
        started.append("denoise")
        return graphs["denoise"]

    specialists = Specialists({"denoise": start})
    assert specialists.split(np.stack([maps("haze")]), 1)[0].specialist is None
    assert started == []
    for _ in range(2):
        assert specialists.split(maps("noise")[None], 1)[0].specialist is graphs["denoise"]
    assert started == ["denoise"]


def test_a_specialist_that_runs_out_of_memory_gets_smaller_batches(restorer, graphs):
    graphs["denoise"] = Faulty(most=3)
    tiles = noise(8)
    restored = restorer.restore(tiles, np.stack([maps("noise")] * 8))
    assert np.array_equal(restored.pixels, tiles)
    assert restored.retries == Retries(oom=2)


def test_kinds_of_specialists_are_tasks():
    assert set().union(*SPECIALISTS.values()) <= set(TASKS[1:])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model with random weights and a specialist for noise."""
    folder = tmp_path_factory.mktemp("specialists")
    torch.manual_seed(0)
    save_weights(build_varformer_s(), folder / "weights.safetensors")
    export_varformer_s(folder / "weights.safetensors", folder / "net.onnx")
    before = model_digest(str(folder / "net.onnx"))
    save_weights(SpecialistNetwork(), folder / "special.safetensors")
    export_specialist(folder / "special.safetensors", folder / "net.denoise.onnx")
    return folder / "net.onnx", before


def test_an_exported_specialist_computes_what_its_network_computes(exported):
    """Exporting compares them; here through the opened model, with other tiles."""
    model, _ = exported
    network = SpecialistNetwork()
    load_weights(network, model.with_name("special.safetensors"))
    tiles = noise(2, edge=64, seed=3)
    prior = np.zeros((2, 422, 4, 4), np.float32)
    prior[:, -6 + KINDS.index("noise")] = 1.0
    restored = open_restorer(str(model), ON_CPU).restore(tiles, prior).pixels
    with torch.no_grad():
        wanted = network.eval()(torch.from_numpy(tiles).permute(0, 3, 1, 2)).clamp(0.0, 1.0)
    assert np.abs(restored - wanted.permute(0, 2, 3, 1).numpy()).max() < 1e-2  # int8 weights


def test_an_exported_specialist_can_be_trained_on(exported):
    model, _ = exported
    network, fresh = SpecialistNetwork(), SpecialistNetwork()
    load_weights(network, model.with_name("special.safetensors"))
    assert load_initial(fresh, specialist_path(model, "denoise")) == []
    for name, weight in network.state_dict().items():
        step = weight.abs().max() / 127
        assert (fresh.state_dict()[name] - weight).abs().max() <= 0.51 * step, name


def test_the_shipped_specialists_can_be_trained_on():
    shipped = specialist_paths(Path(models.__file__).with_name("varformer-s.onnx"))
    assert shipped
    for path in shipped.values():
        assert load_initial(SpecialistNetwork(), path) == []


def test_weights_are_stored_as_int8(exported):
    model, _ = exported
    weights = sum(weight.numel() for weight in SpecialistNetwork().parameters())
    assert specialist_path(model, "denoise").stat().st_size < 1.05 * weights


def test_a_specialist_belongs_to_its_model_and_counts_in_its_digest(exported, tmp_path):
    model, before = exported
    assert verify_model(model).name == "net"
    assert model_digest(str(model)) != before
    other = specialist_path(tmp_path / "other.onnx", "denoise")
    other.write_bytes(specialist_path(model, "denoise").read_bytes())
    for suffix in (".onnx", ".prior.onnx"):
        source = model.with_name(f"net{suffix}")
        (tmp_path / f"other{suffix}").write_bytes(source.read_bytes())
    assert verify_model(tmp_path / "other.onnx").name == "net"  # copied together, they still fit


def test_a_file_of_another_name_is_no_specialist(tmp_path):
    with pytest.raises(ConfigError) as caught:
        model_path(tmp_path / "net.sharpen.onnx")
    assert "net.sharpen.onnx: not the name of a specialist" in text_of(caught.value)
    assert model_path(tmp_path / "net.derain.onnx").name == "net.onnx"


def test_weights_of_another_network_are_rejected(exported):
    model, _ = exported
    with pytest.raises(ModelContractError):
        export_specialist(model.with_name("weights.safetensors"), specialist_path(model, "derain"))
