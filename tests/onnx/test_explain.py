"""What the model that ships tells of its decisions (`varfix image --explain`)."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from support.sessions import ON_CPU

from varfix.cli.main import invoke
from varfix.engine.errors import ConfigError, ExitCode
from varfix.engine.networks.layers.quantizer import SCALES
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.prior import MAP_CHANNELS, SMALL_VQVAE
from varfix.engine.networks.varformer_s.tone_grid import GRID_CHANNELS
from varfix.engine.networks.varformer_s.unet import RestorerConfig, RestorerNetwork
from varfix.engine.restoration import findings
from varfix.engine.restoration.explanation import SIDES, prior_parts
from varfix.onnx.files.model_files import find_model
from varfix.onnx.inference import explain
from varfix.onnx.inference import intermediate_outputs as inside
from varfix.onnx.inference.open_model import open_restorer
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

PICTURES = Path(__file__).parents[1] / "pictures"


@pytest.fixture(scope="module")
def shipped():
    return find_model("varformer-s")


@pytest.fixture(scope="module")
def feeds(shipped):
    """A tile, and a prior that is nothing in particular."""
    rng = np.random.default_rng(0)
    (prior,) = (
        i for i in start(shipped.restore, SessionPlan(CPU)).get_inputs() if i.name != "tile"
    )
    return {
        "tile": rng.random((1, 3, 64, 128), np.float32),
        "prior": 0.1 * rng.standard_normal((1, prior.shape[1], 4, 8), np.float32),
    }


def test_sizes_known_without_the_network_are_the_networks():
    assert (KINDS, SMALL_VQVAE.latent, SCALES) == (findings.KINDS, explain.LATENT, SIDES)
    parts = prior_parts(MAP_CHANNELS, len(KINDS), explain.LATENT)
    covered = sorted(i for part in parts.values() for i in range(MAP_CHANNELS)[part])
    assert covered == list(range(MAP_CHANNELS))
    tone = parts["tone"]
    assert tone.stop - tone.start == GRID_CHANNELS


def test_a_file_with_more_results_is_the_file_and_a_few_names(shipped, feeds):
    content = shipped.restore.read_bytes()
    decisions = explain.find_fusion_outputs(shipped)
    more = inside.add_outputs(content, decisions.regions)
    assert more[: len(content)] == content
    assert len(more) - len(content) < 200
    session = start(more, SessionPlan(CPU))
    assert [node.name for node in session.get_outputs()] == ["restored", *decisions.regions]
    (known,) = start(shipped.restore, SessionPlan(CPU)).run(["restored"], feeds)
    assert np.array_equal(session.run(["restored"], feeds)[0], known)


def test_the_steps_of_a_graph_are_read_as_the_onnx_package_reads_them(shipped):
    graph = onnx.load(shipped.restore).graph
    assert inside.read_nodes(shipped.restore.read_bytes()) == [
        inside.Node(node.op_type, tuple(node.input), tuple(node.output)) for node in graph.node
    ]


def with_weights(network, path):
    """The network with its weights from a restore graph, which keeps their names."""
    for constant in onnx.load(path).graph.initializer:
        name = constant.name.removeprefix("network.").removesuffix(".half")
        if name in network.state_dict():
            values = onnx.numpy_helper.to_array(constant).astype(np.float32)
            network.state_dict()[name].copy_(torch.from_numpy(values))
    return network


@torch.no_grad()
def test_the_outputs_of_the_graph_are_those_of_the_network(shipped, feeds):
    network = with_weights(RestorerNetwork(RestorerConfig()), shipped.restore)
    decided = {}
    for place in explain.FUSIONS.values():
        enhance = network.get_submodule(f"fuse_{place}.enhance")
        for head in ("region_weights", "scale_weights"):
            getattr(enhance, head).register_forward_hook(
                lambda _m, _x, out, name=(head, place): decided.update({name: out.softmax(1)})
            )
    network(torch.from_numpy(feeds["tile"]), torch.from_numpy(feeds["prior"]))
    decisions = explain.find_fusion_outputs(shipped)
    names = (*decisions.regions, *decisions.scales)
    session = start(inside.add_outputs(shipped.restore.read_bytes(), names), SessionPlan(CPU))
    found = session.run(names, feeds)
    wanted = [decided[head, place] for head in ("region_weights", "scale_weights")
              for place in explain.FUSIONS.values()]  # fmt: skip
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert np.abs(ours - theirs.numpy()).max() < 1e-4


def test_the_shipped_model_draws_all_sheets(tmp_path):
    image = cv2.resize(cv2.imread(str(PICTURES / "animals" / "osprey-rain.jpg")), (128, 72))
    cv2.imwrite(str(tmp_path / "in.png"), image)
    command = ["image", "-q", "-d", "cpu", "--explain", str(tmp_path / "why")]
    assert invoke([*command, str(tmp_path / "in.png"), str(tmp_path / "out.png")]) == ExitCode.OK
    drawn = {path.name for path in (tmp_path / "why").iterdir()}
    assert drawn == {"regions.png", "scales.png", "steps.png", "kinds.png"}


def test_rain_is_recognized_as_rain(shipped):
    image = cv2.resize(cv2.imread(str(PICTURES / "animals" / "osprey-rain.jpg")), (256, 144))
    pixels = image[..., ::-1] / np.float32(255)
    explanation = explain.explanation_of(
        open_restorer("varformer-s", ON_CPU), shipped, pixels, "auto"
    )
    assert max(explanation.kinds, key=explanation.kinds.get) == "rain"
    assert explanation.kinds["rain"] > 0.5
    assert np.allclose(explanation.scales.sum(1), 1.0, atol=1e-4)
    first, last = explanation.steps[0][1], explanation.steps[-1][1]
    assert first.shape == last.shape == explanation.image.shape
    assert np.abs(first - last).mean() > 0.005  # it is the prior that knows what to do


@pytest.mark.parametrize(
    ("sides", "fitting"),
    [
        ((64, 64), (64, 64)),
        ((3000, 2000), (512, 320)),
        ((20, 4000), (64, 512)),
        ((70, 90), (64, 64)),
    ],
)
def test_any_image_is_fitted_to_about_one_tile(sides, fitting):
    assert explain.fitted(np.zeros((*sides, 3), np.float32), 512, 64).shape[:2] == fitting


def test_graphs_of_other_programs_have_no_outputs_to_explain(shelf, tmp_path):
    path = shelf.foreign((1, 3, "H", "W"))
    with pytest.raises(ConfigError, match="no outputs for --explain"):
        explain.require_explainable(str(path), open_restorer(str(path), ON_CPU))
