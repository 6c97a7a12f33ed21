"""fp16: as a way to store weights, and as a way to compute.

`store_weights_as_fp16` halves the size of a file: the runtime folds the casts back to fp32 when it
loads the graph. With `convert_to_fp16`, convolutions and matrix products with a weight are also
computed in fp16. Everything between them (normalization, softmax, residuals, products of attention)
stays in fp32, and so do weights that the caller names, such as those of the layers that decide
between tokens.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import nn

from varfix.engine.train.initial_weights import HALF
from varfix.onnx.export.trace import SMALL, constant, is_weight

FP16: Final = ir.DataType.FLOAT16
FP32: Final = ir.DataType.FLOAT

_PRODUCTS: Final = ("Conv", "Gemm", "MatMul")


def round_weights_to_fp16(model: nn.Module) -> None:
    """Round large weights to fp16, in place, as the files store them."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.numel() >= SMALL:
                weight.copy_(weight.half().float())


def store_weights_as_fp16(model: ir.Model) -> int:
    """Store large weights as fp16, in place; the results of casts have their names.

    Returns:
        The number of converted weights.
    """
    graph, values = model.graph, Fp16Values(model.graph)
    weights = [value for value in graph.initializers.values() if is_weight(value)]
    first = next(iter(graph))
    for weight in weights:
        name = str(weight.name)
        cast = _cast_node(values.stored(weight), FP32, f"{name}.wide")
        graph.insert_before(first, cast)
        weight.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]
        cast.outputs[0].name = name
    return len(weights)


def convert_to_fp16(model: ir.Model, kept: re.Pattern[str]) -> int:
    """Convert products with weights to fp16, in place.

    Args:
        model: The graph in fp32.
        kept: Matches in the names of weights that stay in fp32.

    Returns:
        The number of converted products.
    """
    graph, values = model.graph, Fp16Values(model.graph)
    count = 0
    for node in list(graph):
        weight = node.inputs[1] if node.op_type in _PRODUCTS else None
        if not is_weight(weight) or kept.search(str(weight and weight.name)):
            continue
        for place, value in enumerate(node.inputs):
            if value is not None:
                node.replace_input_with(place, values.of(value, node))
        _widen(graph, node)
        count += 1
    common.RemoveUnusedNodesPass()(model)  # mainly the weights in fp32
    return count


class Fp16Values:
    """Values of a graph in fp16, each converted once."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._converted: dict[int, ir.Value] = {}

    def of(self, value: ir.Value, user: ir.Node) -> ir.Value:
        """Return the value in fp16, available before `user` runs."""
        if id(value) not in self._converted:
            self._converted[id(value)] = (
                self.stored(value) if value.is_initializer() else self._cast(value, user)
            )
        return self._converted[id(value)]

    def stored(self, value: ir.Value) -> ir.Value:
        """Return a constant of the graph that holds an initializer in fp16."""
        tensor = value.const_value
        assert tensor is not None
        name = f"{value.name}{HALF}"
        half = ir.LazyTensor(
            lambda: ir.Tensor(tensor.numpy().astype(np.float16)),
            dtype=FP16,
            shape=ir.Shape(tensor.shape.numpy()),
            name=name,
        )
        stored = constant(name, half)
        self._graph.register_initializer(stored)
        return stored

    def _cast(self, value: ir.Value, user: ir.Node) -> ir.Value:
        node = _cast_node(value, FP16, f"{value.name}{HALF}")
        self._graph.insert_before(user, node)
        return node.outputs[0]


def _widen(graph: ir.Graph, node: ir.Node) -> None:
    """Cast a node's result back to fp32, under its former name."""
    result = node.outputs[0]
    users = list(result.uses())
    cast = _cast_node(result, FP32, str(result.name))
    cast.outputs[0].shape = result.shape
    result.name, result.type = f"{result.name}.product", ir.TensorType(FP16)
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
