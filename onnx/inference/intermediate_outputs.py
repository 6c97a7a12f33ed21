"""Values inside a graph: found by the weights that they are computed with, and made results.

The files of VarFormer-S name their weights, from which training can begin, and return nothing but
the image. What explains it is computed all the same. A reader of protobuf joins a message that
is there in two pieces: a second piece of the graph, with more results in it, goes behind the file's
own bytes, and neither the file nor the install grows for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from varfix.onnx.files import protobuf as wire

# Field numbers of onnx.GraphProto, NodeProto and ValueInfoProto.
_NODE: Final = 1
_OUTPUT: Final = 12
_NODE_INPUT: Final = 1
_NODE_OUTPUT: Final = 2
_NODE_KIND: Final = 4
_NAME: Final = 1


@dataclass(frozen=True)
class Node:
    """One step of a graph: what kind it is, and the names of what it takes and gives."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(model: bytes) -> list[Node]:
    """The steps of a model file's graph, in the order in which they are computed.

    Raises:
        WireError: This is no complete ONNX file.
    """
    data = memoryview(model)
    graphs = (field for field in wire.fields(data) if field.number == wire.GRAPH)
    return [
        _node(graph[field.body : field.end])
        for graph in (data[found.body : found.end] for found in graphs)
        for field in wire.fields(graph)
        if field.number == _NODE
    ]


def _node(data: memoryview) -> Node:
    texts: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_KIND: [""]}
    for field in wire.fields(data):
        if field.number in texts:
            texts[field.number].append(bytes(data[field.body : field.end]).decode())
    return Node(texts[_NODE_KIND][-1], tuple(texts[_NODE_INPUT]), tuple(texts[_NODE_OUTPUT]))


def value_after(nodes: Iterable[Node], weight: str, kind: str) -> str | None:
    """The result of the step of some kind that takes what is computed with a weight.

    Args:
        nodes: of the graph, in their order.
        weight: a name in the graph.
        kind: of the step that follows, for example Softmax.

    Returns:
        None where there is no such weight, or nothing of the kind follows it at once.
    """
    made: set[str] = set()
    for node in nodes:
        if weight in node.inputs:
            made.update(node.outputs)
        elif node.kind == kind and made.intersection(node.inputs):
            return node.outputs[0]
    return None


def with_results(model: bytes, names: Iterable[str]) -> bytes:
    """The model file with further results, which are values inside its graph."""
    return model + wire.encode_bytes(wire.GRAPH, b"".join(_results(names)))


def _results(names: Iterable[str]) -> Iterator[bytes]:
    for name in names:
        yield wire.encode_bytes(_OUTPUT, wire.encode_bytes(_NAME, name.encode()))
