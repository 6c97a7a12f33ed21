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

from varfix.onnx.export.trace import constant, is_weight

FP32: Final = ir.DataType.FLOAT
INT8: Final = ir.DataType.INT8
SUFFIX: Final = ".int8"
SCALE_SUFFIX: Final = ".scale"
_LARGEST: Final = 127
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
    scale = (weight.abs().amax((1, 2, 3), keepdim=True) / _LARGEST).clamp_min(_FAINT)
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
        scale = _scale(array)
        stored = constant(f"{name}{SUFFIX}", ir.Tensor(np.round(array / scale).astype(np.int8)))
        factor = constant(f"{name}{SCALE_SUFFIX}", ir.Tensor(scale))
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


def _scale(array: Floats) -> Floats:
    """Return the scales (O, 1, 1, 1) of rounded weights: the largest is 127 times its scale."""
    largest = np.abs(array).max((1, 2, 3), keepdims=True)
    return np.asarray(np.maximum(largest / _LARGEST, _FAINT), np.float32)
