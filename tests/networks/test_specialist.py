"""The network of a specialist."""

import pytest
import torch

from varfix.engine.networks.varformer_s.specialist import SpecialistConfig, SpecialistNetwork

SMALL = SpecialistConfig(widths=(4, 6, 8, 10), blocks=1, middle=1)


def test_a_tile_of_any_multiple_of_sixteen_keeps_its_size():
    network = SpecialistNetwork(SMALL)
    for size in ((16, 16), (32, 80)):
        assert network(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_nothing_to_remove_leaves_the_tile_as_it_is():
    network = SpecialistNetwork(SMALL)
    torch.nn.init.zeros_(network.conv_out.weight)
    torch.nn.init.zeros_(network.conv_out.bias)
    tile = torch.rand(1, 3, 32, 32)
    assert torch.equal(network(tile), tile)


def test_a_pixel_sees_no_farther_than_the_overlap_of_tiles_reaches_well():
    """Most of what a pixel depends on is near; the rest is in the overlap that is dropped."""
    torch.manual_seed(0)
    network = SpecialistNetwork().eval()
    tile = torch.rand(1, 3, 192, 192, requires_grad=True)
    network(tile)[0, :, 96, 96].sum().backward()
    strength = tile.grad.abs().sum((0, 1))
    near = strength[96 - 32 : 96 + 33, 96 - 32 : 96 + 33].sum()
    assert float(near / strength.sum()) > 0.95


@pytest.mark.parametrize("widths", [(48, 80, 128, 192)])
def test_the_cost_is_below_the_budget_of_a_laptop(widths):
    """At most 0.45 million operations a pixel, and 16 MB in half precision."""
    network, operations = SpecialistNetwork(SpecialistConfig(widths=widths)), []
    for layer in network.modules():
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(
                lambda layer, _, out: operations.append(
                    2 * layer.weight.numel() * out.shape[2] * out.shape[3]
                )
            )
    network(torch.zeros(1, 3, 64, 64))
    assert sum(operations) / 64**2 < 450e3
    assert sum(weight.numel() for weight in network.parameters()) * 2 < 16e6
