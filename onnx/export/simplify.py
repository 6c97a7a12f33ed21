"""Takes out of exported graphs what only the exporter needed.

PyTorch's exporter writes `split` as a sequence of tensors that is indexed afterwards. ONNX Runtime
neither fuses sequences nor hands them to TensorRT, which would cut the graph in pieces around them.
Values are the same bit for bit, and weights keep their names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper


def split_plainly(model: onnx.ModelProto) -> int:
    """Replace sequences of parts by the parts themselves, in place; return how many."""
    graph = model.graph
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    known = _integers(graph)
    nodes, dropped, count = [], set(), 0
    for node in graph.node:
        picks = users[node.output[0]] if node.op_type == "SplitToSequence" else []
        plain = _plain(node, picks, known)
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
    """Constant integers by name."""
    found = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    integers = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return {
        name: numpy_helper.to_array(one) for name, one in found.items() if one.data_type in integers
    }


def _plain(
    node: onnx.NodeProto, picks: Sequence[onnx.NodeProto], known: Mapping[str, np.ndarray]
) -> tuple[onnx.TensorProto, onnx.NodeProto] | None:
    """The sizes and the plain split that give what the picks take; None if that is not known."""
    constant = len(node.input) == 2 and node.input[1] in known
    if not picks or not constant or any(not _is_pick(pick, known) for pick in picks):
        return None
    wanted = {int(known[pick.input[1]]): pick.output[0] for pick in picks}
    if len(wanted) < len(picks) or min(wanted) < 0:
        return None
    length = known[node.input[1]]
    # Of equal parts, as many as are taken: if there were more, the sum would not fit the input,
    # and the comparison with the network that follows every export would end in an error.
    sizes = length if length.ndim else np.repeat(length, max(wanted) + 1)
    parts = [wanted.get(place, f"{node.output[0]}.part{place}") for place in range(len(sizes))]
    name = f"{node.output[0]}.sizes"
    axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
    split = helper.make_node("Split", [node.input[0], name], parts, name=node.name, axis=axis)
    return numpy_helper.from_array(sizes.astype(np.int64), name), split


def _is_pick(node: onnx.NodeProto, known: Mapping[str, np.ndarray]) -> bool:
    return node.op_type == "SequenceAt" and node.input[1] in known
