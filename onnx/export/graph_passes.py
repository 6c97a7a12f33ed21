"""Passes over exported graphs that change how they compute, not what.

`expand_group_norm` works on the exporter's own representation (onnx_ir), the others on the file's
(protobuf).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import helper, numpy_helper

PARTS: Final = 64
"""Parts in which a group is summed first."""

LARGE: Final = 4096
"""Groups of fewer values are summed exactly enough by the runtime."""


def expand_group_norm(graph: ir.Graph) -> int:
    """Replace the normalization of large groups by single operations, in place.

    The runtime's `InstanceNormalization` sums a whole group at once: over 300,000 values its
    results are off by 1.6e-5 where PyTorch's are off by 1e-6 (measured against double precision),
    and VarFormer's encoders multiply the error by a hundred. Means of means lose nothing.

    Returns:
        The number of replaced nodes.
    """
    count = 0
    for node in list(graph):
        if node.op_type == "InstanceNormalization" and _values(node) % PARTS == 0:
            if _values(node) < LARGE:
                continue
            _write_out(graph, node)
            count += 1
    return count


def _values(node: ir.Node) -> int:
    """Return how many values are normalized together; 1 if unknown."""
    given, scale = node.inputs[:2]
    assert given is not None and scale is not None
    source = given if given.shape is not None else _reshaped(given)
    if source is None or source.shape is None or scale.shape is None:
        return 1
    sides, groups = source.shape.numpy(), scale.shape.numpy()
    return math.prod(sides) // (sides[0] * groups[0])


def _reshaped(value: ir.Value) -> ir.Value | None:
    node = value.producer()
    return node.inputs[0] if node is not None and node.op_type == "Reshape" else None


def _write_out(graph: ir.Graph, node: ir.Node) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, for x of (B, groups, values)."""
    given, scale, bias = node.inputs
    assert given is not None and scale is not None and bias is not None
    result = node.outputs[0]
    work = _NodeInserter(graph, node, str(result.name))
    epsilon = node.attributes["epsilon"].as_float()
    parts = work("Reshape", given, work.constant("parts", np.array([0, 0, PARTS, -1], np.int64)))
    centered = work("Sub", parts, work.mean(parts))
    variance = work.mean(work("Mul", centered, centered))
    least = work.constant("epsilon", np.array([epsilon], np.float32))
    spread = work("Sqrt", work("Add", variance, least))
    normal = work("Div", centered, spread)
    sides = work.constant("sides", np.array([1, -1, 1], np.int64))
    whole = work("Reshape", normal, work.constant("whole", np.array([0, 0, -1], np.int64)))
    scaled = work("Mul", whole, work("Reshape", scale, sides))
    shifted = work("Add", scaled, work("Reshape", bias, sides))
    shifted.shape, shifted.type = result.shape, result.type
    result.replace_all_uses_with(shifted)
    graph.remove(node, safe=True)


class _NodeInserter:
    """Inserts nodes before another node; their results are named after its result."""

    def __init__(self, graph: ir.Graph, before: ir.Node, name: str) -> None:
        self._graph = graph
        self._before = before
        self._name = name
        self._count = 0

    def __call__(self, operator: str, *inputs: ir.Value, keepdims: int | None = None) -> ir.Value:
        attributes = {} if keepdims is None else {"keepdims": keepdims}
        node = ir.node(operator, list(inputs), attributes)
        self._count += 1
        node.outputs[0].name = f"{self._name}.{self._count}"
        self._graph.insert_before(self._before, node)
        return node.outputs[0]

    def mean(self, parts: ir.Value) -> ir.Value:
        """Return the mean of each group of (B, groups, PARTS, values), as (B, groups, 1, 1)."""
        for axis in (3, 2):
            axes = self.constant(f"axis{axis}", np.array([axis], np.int64))
            parts = self("ReduceMean", parts, axes, keepdims=1)
        return parts

    def constant(self, name: str, value: npt.NDArray[Any]) -> ir.Value:
        """Return a small constant of the graph, created once."""
        full = f"norms.{name}.{value.tobytes().hex()}"
        known = self._graph.initializers.get(full)
        if known is None:
            known = ir.Value(
                name=full,
                type=ir.TensorType(ir.tensor(value).dtype),
                shape=ir.Shape(value.shape),
                const_value=ir.tensor(value, name=full),
            )
            self._graph.register_initializer(known)
        return known


def replace_split_sequences(model: onnx.ModelProto) -> int:
    """Replace splits to a sequence by plain splits, in place.

    PyTorch's exporter writes `split` as a sequence of tensors that is indexed afterwards. ONNX
    Runtime neither fuses sequences nor passes them to TensorRT, which would cut the graph around
    them. Values stay the same bit for bit, and weights keep their names.

    Returns:
        The number of replaced splits.
    """
    graph = model.graph
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    known = _integers(graph)
    nodes, dropped, count = [], set(), 0
    for node in graph.node:
        picks = users[node.output[0]] if node.op_type == "SplitToSequence" else []
        plain = _plain_split(node, picks, known)
        if plain is None:
            nodes.append(node)
            continue
        sizes, split = plain
        graph.initializer.append(sizes)
        nodes.append(split)
        dropped |= {id(pick) for pick in picks}
        count += 1
    del graph.node[:]
    graph.node.extend(node for node in nodes if id(node) not in dropped)
    return count


def _integers(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Return constant integers by name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    integers = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in found.items()
        if tensor.data_type in integers
    }


def _plain_split(
    node: onnx.NodeProto, picks: Sequence[onnx.NodeProto], known: Mapping[str, np.ndarray]
) -> tuple[onnx.TensorProto, onnx.NodeProto] | None:
    """Return sizes and node of the plain split that replaces a sequence; None if unknown."""
    constant = len(node.input) == 2 and node.input[1] in known
    if not picks or not constant or any(not _is_pick(pick, known) for pick in picks):
        return None
    wanted = {int(known[pick.input[1]]): pick.output[0] for pick in picks}
    if len(wanted) < len(picks) or min(wanted) < 0:
        return None
    length = known[node.input[1]]
    # Of equal parts, only those that are used: with more, the sizes would not sum to the input's,
    # and the comparison with the network after the export would fail.
    sizes = length if length.ndim else np.repeat(length, max(wanted) + 1)
    parts = [wanted.get(place, f"{node.output[0]}.part{place}") for place in range(len(sizes))]
    name = f"{node.output[0]}.sizes"
    axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
    split = helper.make_node("Split", [node.input[0], name], parts, name=node.name, axis=axis)
    return numpy_helper.from_array(sizes.astype(np.int64), name), split


def _is_pick(node: onnx.NodeProto, known: Mapping[str, np.ndarray]) -> bool:
    return node.op_type == "SequenceAt" and node.input[1] in known


def name_sizes(model: onnx.ModelProto) -> None:
    """Give the symbolic sizes the names by which a session pins them."""
    names = {
        "tile": ("batch", None, "height", "width"),
        "prior": ("batch", None, "prior_height", "prior_width"),
        "restored": ("batch", None, "height", "width"),
    }
    for value in [*model.graph.input, *model.graph.output]:
        sizes = value.type.tensor_type.shape.dim
        for size, name in zip(sizes, names[value.name], strict=True):
            if name is not None:
                size.dim_param = name
    del model.graph.value_info[:]  # these contain the exporter's own symbols


def strip_exporter_metadata(model: onnx.ModelProto) -> None:
    """Remove stack traces, which contain paths of the exporting machine."""
    graph = model.graph
    for part in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        del part.metadata_props[:]
        part.ClearField("doc_string")
