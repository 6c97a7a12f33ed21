"""The same graph in half precision, where half precision is enough.

Convolutions and matrix products with a weight get it in half precision and compute so; everything
between them (normalization, softmax, residuals, the attention's own products) stays as it was, and
so does whatever the caller names, such as the layers whose output decides between tokens.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from varfix.onnx.export.trace import constant, is_weight

HALF: Final = ir.DataType.FLOAT16
FLOAT: Final = ir.DataType.FLOAT
_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")


def halve(model: ir.Model, kept: re.Pattern[str]) -> int:
    """Change a graph to half precision, in place.

    Args:
        model: the graph in single precision.
        kept: matches somewhere in the names of weights that stay as they are.

    Returns:
        How many products compute in half precision now.
    """
    graph, halves = model.graph, _Halves(model.graph)
    count = 0
    for node in list(graph):
        weight = node.inputs[1] if node.op_type in _PRODUCTS else None
        if not is_weight(weight) or kept.search(str(weight and weight.name)):
            continue
        for place, value in enumerate(node.inputs):
            if value is not None:
                node.replace_input_with(place, halves.of(value, node))
        _widen(graph, node)
        count += 1
    common.RemoveUnusedNodesPass()(model)  # above all, the weights in single precision
    return count


class _Halves:
    """Values in half precision, each made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._known: dict[int, ir.Value] = {}

    def of(self, value: ir.Value, user: ir.Node) -> ir.Value:
        """The value in half precision, available before `user` runs."""
        if id(value) not in self._known:
            self._known[id(value)] = (
                self._stored(value) if value.is_initializer() else self._cast(value, user)
            )
        return self._known[id(value)]

    def _stored(self, value: ir.Value) -> ir.Value:
        tensor = value.const_value
        assert tensor is not None
        name = f"{value.name}.half"
        half = ir.LazyTensor(
            lambda: ir.Tensor(tensor.numpy().astype(np.float16)),
            dtype=HALF,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
        stored = constant(name, half)
        self._graph.register_initializer(stored)
        return stored

    def _cast(self, value: ir.Value, user: ir.Node) -> ir.Value:
        node = _cast_node(value, HALF, f"{value.name}.half")
        self._graph.insert_before(user, node)
        return node.outputs[0]


def _widen(graph: ir.Graph, node: ir.Node) -> None:
    """Give a node's users its result in single precision, under the name that it had."""
    result = node.outputs[0]
    users = list(result.uses())
    cast = _cast_node(result, FLOAT, str(result.name))
    cast.outputs[0].shape = result.shape
    result.name, result.type = f"{result.name}.product", ir.TensorType(HALF)
    graph.insert_after(node, cast)
    for user, place in users:
        user.replace_input_with(place, cast.outputs[0])
    for place, output in enumerate(graph.outputs):
        if output is result:
            graph.outputs[place] = cast.outputs[0]


def _cast_node(value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], {"to": to})
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(to)
    node.outputs[0].shape = value.shape
    return node
