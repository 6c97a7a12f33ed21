"""Exported graphs lose their sequences and compute the same."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from varfix.onnx.export.simplify import split_plainly
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

X = np.random.default_rng(0).random((2, 6, 3), np.float32)


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


def run(model):
    session = start(model.SerializeToString(), SessionPlan(CPU))
    return session.run([output.name for output in model.graph.output], {"x": X})


@pytest.mark.parametrize(
    ("sizes", "places"), [([1, 2, 3], [0, 1, 2]), ([1, 2, 3], [2]), (2, [0, 1, 2]), (3, [1, 0])]
)
def test_parts_are_the_same_without_the_sequence(sizes, places):
    before, model = run(model_of(sizes, places)), model_of(sizes, places)
    assert split_plainly(model) == 1
    kinds = {node.op_type for node in model.graph.node}
    assert "Split" in kinds
    assert not kinds & {"SplitToSequence", "SequenceAt"}
    onnx.checker.check_model(model)
    for one, other in zip(before, run(model), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("places", [[-1], [0, -2]])
def test_what_is_counted_from_the_end_stays_a_sequence(places):
    model = model_of([1, 2, 3], places)
    assert split_plainly(model) == 0
    assert len(run(model)) == len(places)


def test_a_sequence_that_is_used_as_one_stays():
    model = model_of([1, 2, 3], [0])
    model.graph.node.append(helper.make_node("SequenceLength", ["parts"], ["count"]))
    model.graph.output.append(helper.make_tensor_value_info("count", TensorProto.INT64, []))
    assert split_plainly(model) == 0
    assert run(model)[1] == 3
