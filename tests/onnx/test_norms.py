"""Group normalization is summed as exactly as in PyTorch."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from varfix.onnx.export.graph_passes import sum_exactly
from varfix.onnx.export.trace import traced


class Normal(nn.Module):
    """A normalization alone, as a graph to be traced."""

    def __init__(self, groups, channels):
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)

    def forward(self, tile):
        return {"normal": self.norm(tile)}


def run(path, tile):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"tile": tile.numpy()})[0]


def worst(network, tile, path):
    ir.save(traced(network, tile, ["normal"]), path)
    with torch.no_grad():
        exact = network.double()(tile.double())["normal"].numpy()
    return np.abs(run(path, tile) - exact).max()


def test_a_large_group_is_normalized_as_exactly_as_in_pytorch(tmp_path):
    torch.manual_seed(0)
    tile = 2.0 * torch.randn(1, 8, 256, 256) + 0.5
    assert worst(Normal(2, 8), tile, tmp_path / "n.onnx") < 5e-6  # 3e-5 with one sum


@pytest.mark.parametrize("side", [1, 5, 40])
def test_sizes_that_are_small_or_odd_stay_one_operator(side, tmp_path):
    torch.manual_seed(0)
    tile = torch.randn(1, 8, side + 1, side)
    path = tmp_path / "n.onnx"
    assert worst(Normal(2, 8), tile, path) < 5e-6
    assert [node.op_type for node in ir.load(path).graph].count("InstanceNormalization") == 1


def test_what_is_written_out_is_not_written_out_again(tmp_path):
    model = traced(Normal(2, 8), torch.randn(1, 8, 64, 64), ["normal"])
    assert [node.op_type for node in model.graph].count("InstanceNormalization") == 0
    assert sum_exactly(model.graph) == 0
