"""The released network's parts, on a configuration small enough for every run of the tests."""

import ast
import copy
import itertools
import re
from pathlib import Path

import pytest
import torch
from support.released_networks import check_each_alone
from support.varformer_parity import tiny_network

import varfix.engine.networks.varformer.model as varformer_module
from varfix.engine.networks.layers.quantizer import SCALES
from varfix.engine.networks.layers.swin import SwinBlock, shift_mask
from varfix.engine.networks.layers.vqvae import VqvaeConfig
from varfix.engine.networks.varformer.adapter import CurveAdapter
from varfix.engine.networks.varformer.model import Varformer, VarformerConfig
from varfix.engine.networks.varformer.var import VarBlock, VarConfig, merge_heads_as_published

TINY = VarformerConfig(
    vqvae=VqvaeConfig(channels=16, multipliers=(1, 2, 2), blocks=1, codes=64, groups=8),
    var=VarConfig(width=128, heads=2, depth=2, cross=1, codes=64, classes=3),
    adapter=1,
)


@pytest.fixture(scope="module")
def network():
    return tiny_network(TINY)


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return torch.rand(2, 3, 64, 64) * 2.0 - 1.0


def test_an_image_of_a_batch_gives_exactly_what_it_gives_alone(network, images):
    check_each_alone(network, images)


@torch.no_grad()
def test_images_that_run_together_do_not_mix(network, images):
    """The released code mixes them; here only rounding may differ."""
    tokens = network.prior(images[:1]).prediction.tokens.expand(2, -1)
    together = network.restore(images, tokens=tokens)
    alone = network.restore(images[1:], tokens=tokens[1:])
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=0)


def attributes(network):
    return {name: set(vars(module)) for name, module in network.named_modules()}


@torch.no_grad()
def test_a_forward_leaves_nothing_behind(network, images):
    weights, before = copy.deepcopy(network.state_dict()), attributes(network)
    first, second = network(images[:1]), network(images[:1])
    assert torch.equal(first, second)
    assert attributes(network) == before
    assert all(torch.equal(weights[k], v) for k, v in network.state_dict().items())


def test_building_changes_no_default_of_the_process():
    initializers = [cls.reset_parameters for cls in (torch.nn.Linear, torch.nn.Conv2d)]
    Varformer(TINY)
    assert initializers == [cls.reset_parameters for cls in (torch.nn.Linear, torch.nn.Conv2d)]
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_default_device().type == "cpu"


def network_sources():
    folder = Path(varformer_module.__file__).parents[1]
    return [(path.name, ast.parse(path.read_text("utf-8"))) for path in folder.rglob("*.py")]


def test_no_network_file_imports_the_export():
    for name, tree in network_sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [getattr(node, "module", None) or "", *(a.name for a in node.names)]
                assert not any("onnx" in module for module in modules), name
            if isinstance(node, ast.Attribute | ast.Name):
                assert "onnx" not in ast.unparse(node), name


def test_no_network_file_keeps_state_outside_its_parameters():
    """No defaults of the process, no globals, no memoising, nothing set after building."""
    for name, tree in network_sources():
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Global | ast.Nonlocal), name
            if isinstance(node, ast.Attribute | ast.Name):
                text = ast.unparse(node)
                assert not re.search(
                    r"set_default_|register_\w*hook|lru_cache|functools.cache|manual_seed", text
                ), name
            if isinstance(node, ast.FunctionDef) and node.name != "__init__":
                targets = [n for n in ast.walk(node) if isinstance(n, ast.Attribute)]
                assert not any(isinstance(n.ctx, ast.Store) for n in targets), (name, node.name)


@torch.no_grad()
def test_its_own_tokens_lead_to_the_same_image(network, images):
    seen = {}
    free = network.prior(images[:1], seen.__setitem__).prediction
    forced = network.prior(images[:1], tokens=free.tokens).prediction
    assert torch.equal(forced.latent, free.latent)
    assert {f"var/block1/s{k}" for k in range(len(SCALES))} <= seen.keys()


@torch.no_grad()
def test_other_tokens_change_only_what_comes_after_them(network, images):
    free = network.prior(images[:1]).prediction
    tokens = free.tokens.clone()
    tokens[:, 14:30] = (tokens[:, 14:30] + 1) % 64  # scale 3
    forced = network.prior(images[:1], tokens=tokens).prediction
    assert torch.equal(forced.logits[:, :30], free.logits[:, :30])
    assert not torch.equal(forced.logits[:, 30:], free.logits[:, 30:])


def test_an_image_of_another_size_is_refused(network):
    with pytest.raises(ValueError, match="3 x 64 x 64"):
        network(torch.zeros(1, 3, 64, 32))


def test_the_released_order_lists_by_head_then_half_then_position():
    rows, heads, length = 4, 16, 3
    attended = torch.arange(rows * heads * length * 2).reshape(rows, heads, length, 2)
    ours = merge_heads_as_published(attended)
    for first in range(0, rows, 2):  # an image is two rows
        order = itertools.product(range(heads), range(2), range(length))
        listed = [attended[first + half, head, place] for head, half, place in order]
        for row, place in itertools.product(range(2), range(length)):
            start = heads * (row * length + place)
            expected = torch.cat(listed[start : start + heads])
            assert torch.equal(ours[first + row, place], expected)


@torch.no_grad()
def test_memory_handed_on_is_all_that_later_scales_see_of_earlier_ones():
    block, condition = VarBlock(32, 4).eval(), torch.randn(32)
    torch.nn.init.normal_(block.modulation.weight, std=0.3)
    coarse, other, fine = torch.randn(1, 1, 32), torch.randn(1, 1, 32), torch.randn(1, 4, 32)
    _, memory = block(coarse, condition, None)
    _, another = block(other, condition, None)
    seen, known = block(fine, condition, memory)
    assert known.keys.shape == (1, 4, 5, 8)
    assert memory.keys.shape == (1, 4, 1, 8)
    assert not torch.allclose(seen, block(fine, condition, another)[0])
    joint, _ = block(torch.cat([coarse, fine], 1), condition, None)
    torch.testing.assert_close(seen, joint[:, 1:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_shifted_windows_do_not_join_opposite_borders():
    block = SwinBlock(8, 2, shifted_side=16).eval()
    torch.nn.init.normal_(block.attention.bias_table)
    x = torch.randn(1, 8, 16, 16)
    changed = x.clone()
    changed[:, 0, 15, 15] += 3.0  # one channel: the norm would not see all of them
    difference = (block(x) - block(changed)).abs().amax((0, 1))
    assert difference[14:, 14:].min() > 0.0
    assert difference[:14].max() == difference[:, :14].max() == 0.0
    assert shift_mask(16)[0].max() == shift_mask(16)[0].min() == 0.0


def test_plain_windows_see_each_other_only_within():
    block = SwinBlock(8, 2).eval()
    x = torch.randn(1, 8, 8, 8, requires_grad=True)
    block(x)[0, :, 1, 1].sum().backward()
    reached = x.grad.abs().amax((0, 1)) > 0.0
    assert reached[:4, :4].all()
    assert reached.sum() == 16


def test_an_adapter_without_training_is_the_identity():
    latent = torch.randn(1, 32, 16, 16)
    assert torch.equal(CurveAdapter(32, 2)(latent), latent)
