"""Trace a network with unrolled loops to an ONNX graph.

The exporter's own optimizer takes minutes for thousands of nodes, and folds what the runtime folds
anyway when it loads the graph; only passes that make a difference run here. The ten scales of a
next-scale transformer use the same weights, so each weight must stay one tensor in the file.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnxscript.optimizer import _constant_folding as folding
from torch import Tensor, nn

from varfix.onnx.export.graph_passes import expand_group_norm

OPSET: Final = 20
TILE: Final = "tile"
SMALL: Final = 1024
"""Constants of fewer values than this may be copied, folded, and stay in fp32."""

TRANSPOSED: Final = ".T"
"""Suffix of the name of a weight that is stored with its axes exchanged."""


class _TupleOutputs(nn.Module):
    """Returns a graph's named results as a tuple, and records their names."""

    def __init__(self, graph: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.inner = graph  # the exporter reserves the name `graph`
        self.names = names

    def forward(self, tile: Tensor) -> tuple[Tensor, ...]:
        results: dict[str, Tensor] = self.inner(tile)
        self.names[:] = results
        return tuple(results.values())


def trace_graph(graph: nn.Module, example: Tensor, results: Sequence[str]) -> ir.Model:
    """Trace a graph.

    Args:
        graph: Maps a tile to named results. Those that the file does not return stay in it as
            named values, so that it can be checked stage by stage.
        example: A tile (1, 3, T, T); the file accepts tiles of this size only.
        results: Names of the results that the file returns.

    Returns:
        The graph, which shares the weights of the network.
    """
    names: list[str] = []
    recorded = _TupleOutputs(graph, names).eval()
    with silent_exporter(), torch.no_grad():
        program = torch.export.export(recorded, (example,), strict=False)
        exported = torch.onnx.export(
            program,
            (example,),
            input_names=[TILE],
            output_names=list(names),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    assert exported is not None  # nothing was written yet, so the exporter returns the program
    model = exported.model
    _keep_results(model.graph, results)
    _tidy(model)
    expand_group_norm(model.graph)
    _store_transposed(model.graph)
    common.RemoveUnusedNodesPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    return model


def _keep_results(graph: ir.Graph, results: Sequence[str]) -> None:
    """Return only `results`, in their order; other outputs become ordinary named values."""
    outputs = {value.name: value for value in graph.outputs}
    graph.outputs.clear()
    graph.outputs.extend(outputs[name] for name in results)


def _tidy(model: ir.Model) -> None:
    passes = (
        common.InlinePass(),
        folding.FoldConstantsPass(
            shape_inference=False,
            input_size_limit=SMALL,
            output_size_limit=SMALL,
            should_fold=lambda node: False if node.op_type == "Transpose" else None,
        ),
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(size_limit=SMALL),
        common.CommonSubexpressionEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.NameFixPass(),
    )
    for tidy in passes:
        tidy(model)


def _store_transposed(graph: ir.Graph) -> None:
    """Store weights transposed where they are used so; the runtime would copy them for each use."""
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or not is_weight(weight):
            continue
        order = node.attributes["perm"].as_ints()
        transposed = constant(f"{weight.name}{TRANSPOSED}", _transposed(weight, order))
        graph.register_initializer(transposed)
        node.outputs[0].replace_all_uses_with(transposed)
        graph.remove(node, safe=True)


def is_weight(value: ir.Value | None) -> bool:
    """Return whether a value is a large constant in fp32."""
    return (
        value is not None
        and value.is_initializer()
        and value.dtype == ir.DataType.FLOAT
        and value.const_value is not None
        and value.const_value.size >= SMALL
    )


def constant(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Return a constant, to be registered with a graph."""
    return ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )


def _transposed(weight: ir.Value, order: Sequence[int]) -> ir.TensorProtocol:
    """Return the weight with its axes in another order, computed when the file is written."""
    tensor = weight.const_value
    assert tensor is not None
    sides = [tensor.shape.numpy()[axis] for axis in order]
    return ir.LazyTensor(
        lambda: ir.Tensor(np.ascontiguousarray(tensor.numpy().transpose(order))),
        dtype=tensor.dtype,
        shape=ir.Shape(sides),
        name=f"{weight.name}{TRANSPOSED}",
    )


@contextmanager
def silent_exporter() -> Iterator[None]:
    """Suppress warnings and log messages of the exporter."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
