"""Finds intermediate values of a graph by the names of weights, and adds them as outputs.

The graphs of VarFormer-S return the image only. Protobuf merges repeated message fields, so a
second graph field with more outputs can be appended to the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from varfix.onnx.files import protobuf

# Field numbers of onnx.GraphProto, NodeProto and ValueInfoProto.
_NODE: Final = 1
_OUTPUT: Final = 12
_NODE_INPUT: Final = 1
_NODE_OUTPUT: Final = 2
_NODE_KIND: Final = 4
_NAME: Final = 1


@dataclass(frozen=True)
class Node:
    """A node of a graph: its operator, and the names of its inputs and outputs."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(model: bytes) -> list[Node]:
    """Return the nodes of the graph of a model file in their order.

    Raises:
        ProtobufError: The data is not a complete ONNX file.
    """
    data = memoryview(model)
    graphs = (field for field in protobuf.fields(data) if field.number == protobuf.GRAPH)
    return [
        _node(graph[field.body : field.end])
        for graph in (data[found.body : found.end] for found in graphs)
        for field in protobuf.fields(graph)
        if field.number == _NODE
    ]


def _node(data: memoryview) -> Node:
    texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_KIND: [""]}
    for field in protobuf.fields(data):
        if field.number in texts:
            texts[field.number].append(bytes(data[field.body : field.end]).decode())
    return Node(texts[_NODE_KIND][-1], tuple(texts[_NODE_INPUT]), tuple(texts[_NODE_OUTPUT]))


def find_output_after(nodes: Iterable[Node], weight: str, kind: str) -> str | None:
    """Return the output of the first node of a kind that uses a value computed with a weight.

    Args:
        nodes: Nodes of the graph in their order.
        weight: Name of the weight.
        kind: Operator of the following node, for example Softmax.

    Returns:
        The name of the output; None if there is no such weight or node.
    """
    made: set[str] = set()
    for node in nodes:
        if weight in node.inputs:
            made.update(node.outputs)
        elif node.kind == kind and made.intersection(node.inputs):
            return node.outputs[0]
    return None


def add_outputs(model: bytes, names: Iterable[str]) -> bytes:
    """Return the model file with intermediate values as additional outputs."""
    return model + protobuf.encode_bytes(protobuf.GRAPH, b"".join(_results(names)))


def _results(names: Iterable[str]) -> Iterator[bytes]:
    for name in names:
        yield protobuf.encode_bytes(_OUTPUT, protobuf.encode_bytes(_NAME, name.encode()))
