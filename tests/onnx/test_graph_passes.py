"""Passes over exported graphs: sums are as exact as PyTorch's, and sequences disappear."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from varfix.onnx.export.graph_passes import expand_group_norm, replace_split_sequences
from varfix.onnx.export.trace import trace_graph
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

X = np.random.default_rng(0).random((2, 6, 3), np.float32)


class Normal(nn.Module):
    """A normalization alone, as a graph to be traced."""

    def __init__(self, groups, channels):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, tile):
        return {"normal": self.norm(tile)}


def run(path, tile):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"tile": tile.numpy()})[0]


def worst(network, tile, path):
    ir.save(trace_graph(network, tile, ["normal"]), path)
    with torch.no_grad():
        exact = network.double()(tile.double())["normal"].numpy()
    return np.abs(run(path, tile) - exact).max()


def test_a_large_group_is_normalized_as_exactly_as_in_pytorch(tmp_path):
    torch.manual_seed(0)
    tile = 2.0 * torch.randn(1, 8, 256, 256) + 0.5
    assert worst(Normal(2, 8), tile, tmp_path / "n.onnx") < 5e-6  # 3e-5 with one sum


@pytest.mark.parametrize("side", [1, 5, 40])
def test_sizes_that_are_small_or_odd_stay_one_operator(side, tmp_path):
    torch.manual_seed(0)
    tile = torch.randn(1, 8, side + 1, side)
    path = tmp_path / "n.onnx"
    assert worst(Normal(2, 8), tile, path) < 5e-6
    assert [node.op_type for node in ir.load(path).graph].count("InstanceNormalization") == 1


def test_what_is_written_out_is_not_written_out_again(tmp_path):
    model = trace_graph(Normal(2, 8), torch.randn(1, 8, 64, 64), ["normal"])
    assert [node.op_type for node in model.graph].count("InstanceNormalization") == 0
    assert expand_group_norm(model.graph) == 0


def model_of(sizes, places, outputs=None):
    """Splits x along axis 1 into a sequence and takes some of its parts."""
    constants = [helper.make_tensor("sizes", TensorProto.INT64, np.shape(sizes), np.ravel(sizes))]
    nodes = [helper.make_node("SplitToSequence", ["x", "sizes"], ["parts"], name="s", axis=1)]
    for place in places:
        value = helper.make_tensor("value", TensorProto.INT64, [], [place])
        nodes.append(helper.make_node("Constant", [], [f"at{place}"], value=value))
        nodes.append(helper.make_node("SequenceAt", ["parts", f"at{place}"], [f"y{place}"]))
    names = [f"y{place}" for place in places]
    graph = helper.make_graph(
        nodes,
        "split",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(X.shape))],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, None, 3]) for name in names],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def run_model(model):
    session = start(model.SerializeToString(), SessionPlan(CPU))
    return session.run([output.name for output in model.graph.output], {"x": X})


@pytest.mark.parametrize(
    ("sizes", "places"), [([1, 2, 3], [0, 1, 2]), ([1, 2, 3], [2]), (2, [0, 1, 2]), (3, [1, 0])]
)
def test_parts_are_the_same_without_the_sequence(sizes, places):
    before, model = run_model(model_of(sizes, places)), model_of(sizes, places)
    assert replace_split_sequences(model) == 1
    kinds = {node.op_type for node in model.graph.node}
    assert "Split" in kinds
    assert not kinds & {"SplitToSequence", "SequenceAt"}
    onnx.checker.check_model(model)
    for expected, found in zip(before, run_model(model), strict=True):
        np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("places", [[-1], [0, -2]])
def test_what_is_counted_from_the_end_stays_a_sequence(places):
    model = model_of([1, 2, 3], places)
    assert replace_split_sequences(model) == 0
    assert len(run_model(model)) == len(places)


def test_a_sequence_that_is_used_as_one_stays():
    model = model_of([1, 2, 3], [0])
    model.graph.node.append(helper.make_node("SequenceLength", ["parts"], ["count"]))
    model.graph.output.append(helper.make_tensor_value_info("count", TensorProto.INT64, []))
    assert replace_split_sequences(model) == 0
    assert run_model(model)[1] == 3
