"""int8 as a way to store weights: a quarter of the size of fp32, computed in fp32.

Each output channel of a convolution has a scale of its own, the largest magnitude of its weights
divided by 127. The runtime folds the casts and products back to fp32 when it loads the graph.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch
from torch import Tensor, nn

from varfix.engine.train.initial_weights import INT8, SCALE
from varfix.onnx.export.fp16 import FP32
from varfix.onnx.export.trace import constant, is_weight

LARGEST: Final = 127
"""Largest magnitude of a weight in int8."""

_KERNEL_AXES: Final = 4
_FAINT: Final = 1e-9  # keeps divisions finite

Floats = npt.NDArray[np.float32]


def round_weights_to_int8(model: nn.Module) -> None:
    """Round the weights of all convolutions in place, as the files store them."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(_rounded(module.weight))


def _rounded(weight: Tensor) -> Tensor:
    """Round weights (O, I, h, w) to multiples of the scale of their output channel."""
    scale = torch.from_numpy(channel_scales(weight.detach().numpy()))
    return (weight / scale).round() * scale


def store_weights_as_int8(model: ir.Model) -> int:
    """Store rounded weights of convolutions as int8, in place; products have their names.

    Returns:
        The number of converted weights.
    """
    graph = model.graph
    weights = [value for value in graph.initializers.values() if _is_kernel(value)]
    first = next(iter(graph))
    for weight in weights:
        name, array = str(weight.name), _array(weight)
        scale = channel_scales(array)
        stored = constant(f"{name}{INT8}", ir.Tensor(np.round(array / scale).astype(np.int8)))
        factor = constant(f"{name}{SCALE}", ir.Tensor(scale))
        graph.register_initializer(stored)
        graph.register_initializer(factor)
        wide = ir.node("Cast", [stored], {"to": FP32})
        product = ir.node("Mul", [wide.outputs[0], factor])
        result = product.outputs[0]
        graph.insert_before(first, [wide, product])
        result.type, result.shape = ir.TensorType(FP32), weight.shape
        weight.replace_all_uses_with(result)
        del graph.initializers[name]
        wide.outputs[0].name, result.name = f"{name}.wide", name
    return len(weights)


def _is_kernel(value: ir.Value) -> bool:
    return is_weight(value) and value.shape is not None and len(value.shape) == _KERNEL_AXES


def _array(value: ir.Value) -> Floats:
    assert value.const_value is not None
    return np.asarray(value.const_value.numpy(), np.float32)


def channel_scales(weights: Floats, most: int = LARGEST) -> Floats:
    """Return the scales (O, 1, 1, 1) of weights (O, I, h, w), which become at most `most`."""
    largest = np.abs(weights).max((1, 2, 3), keepdims=True)
    return np.asarray(np.maximum(largest / most, _FAINT), np.float32)
