"""Public checkpoints are loaded by name, and anything else is refused without running it."""

import pickle
import re

import pytest
import torch
from support.released_networks import same
from support.varformer_parity import public_state, tiny_network

from varfix.engine.errors import ExitCode, ModelContractError, ModelMissingError
from varfix.engine.networks.checkpoints.key_maps import unused_entries
from varfix.engine.networks.checkpoints.load import (
    load_checkpoint,
    load_var,
    load_var_vqvae,
    load_varformer,
)
from varfix.engine.networks.layers.vqvae import VqvaeConfig
from varfix.engine.networks.varformer.model import VarformerConfig
from varfix.engine.networks.varformer.var import VarConfig

TINY = VarformerConfig(
    vqvae=VqvaeConfig(channels=32, multipliers=(1, 2), blocks=1, codes=16),
    var=VarConfig(width=128, heads=2, depth=2, cross=1, codes=16, classes=3),
    adapter=1,
)


@pytest.fixture(scope="module")
def network():
    return tiny_network(TINY, std=0.1)


@pytest.fixture
def state(network):
    """A checkpoint as published, with the entries that nothing uses."""
    swin = "Mainencoder.DAE.Level_1.swin_blocks.0"
    return {
        **public_state(network),
        f"{swin}.patch_embed.proj.weight": torch.zeros(64, 0, 4, 4),
        f"{swin}.residual_group.blocks.1.attn_mask": torch.zeros(16, 16, 16),
        "main_decoder.AFT.Level_0.q.weight": torch.zeros(32, 32, 1, 1),
        "main_decoder.conv1__w.bias": torch.zeros(1),
        "lvl_1L": torch.zeros(1, 680, dtype=torch.int64),
    }


def part(state, *prefixes):
    return {name: tensor for name, tensor in state.items() if name.startswith(prefixes)}


@pytest.mark.parametrize("nesting", [None, "params", "params_ema"])
def test_every_entry_finds_its_place(network, state, nesting):
    loaded = load_varformer({nesting: state} if nesting else state)
    assert same(loaded, network)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))


def test_the_averaged_weights_are_preferred(network, state):
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    assert same(load_varformer({"params": other, "params_ema": state}), network)


def test_the_vqvae_and_the_transformer_load_from_their_own_files(network, state):
    vqvae = part(state, "encoder.", "decoder.", "quantize.", "quant_conv.", "post_quant_conv.")
    assert same(load_var_vqvae(vqvae), network.vqvae)
    transformer = part(
        state, "blocks.", "head", "word_embed", "class_emb", "lvl_embed", "pos_", "lvl_1L"
    )
    loaded = load_var(transformer)
    assert len(loaded.cross) == 0
    assert torch.equal(loaded.blocks[1].feed[2].weight, network.var.blocks[1].feed[2].weight)


def test_a_checkpoint_is_not_in_memory_twice(state):
    loaded = load_varformer(state)
    assert loaded.var.position.data_ptr() == state["pos_1LC"].data_ptr()
    assert {t.device.type for t in [*loaded.parameters(), *loaded.buffers()]} == {"cpu"}


def test_half_precision_files_become_single_precision(state):
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    assert {p.dtype for p in load_varformer(halves).parameters()} == {torch.float32}


def test_entries_that_nothing_uses_are_listed_with_the_reason(network, state):
    unused = unused_entries(state)
    assert len(unused) == len(state) - len(network.state_dict()) == 5
    assert "never run" in unused["main_decoder.AFT.Level_0.q.weight"]
    assert "constant" in unused["lvl_1L"]


def refused(state, *words, **wanted):
    with pytest.raises(ModelContractError) as raised:
        load_varformer(state, **wanted)
    assert raised.value.exit_code == ExitCode.MODEL
    for word in words:
        assert word in str(raised.value)


def test_a_missing_entry_is_named(state):
    del state["main_decoder.AFT.Level_1.kv.bias"]
    refused(state, "missing", "decoder.fusion.1.transform.key_value.bias")


@pytest.mark.parametrize("name", ["main_decoder.extra.weight", "blocks.0.extra.bias", "more"])
def test_an_unknown_entry_is_named(state, name):
    refused({**state, name: torch.zeros(1)}, "unknown", name)


def test_another_shape_is_named_with_both_shapes(state):
    state["word_embed.bias"] = torch.zeros(64)
    refused(state, "word_embed.bias is 64 float32, expected 128 float32")


def test_entries_that_are_not_numbers_of_the_right_kind_are_refused(state):
    state["word_embed.bias"] = torch.zeros(128, dtype=torch.int64)
    refused(state, "word_embed.bias is 128 int64")
    refused({**state, "epoch": 3}, "epoch")


def test_the_deformable_decoder_is_refused_as_such(state):
    refused({**state, "main_decoder.off_attn.Level_1.weight": torch.zeros(1)}, "deformable")


def test_another_depth_is_refused(state):
    refused(state, "depth 2, expected 16", depth=16)
    shorter = {k: v for k, v in state.items() if not k.startswith("blocks.1.")}
    refused(shorter, "depth 1, 2 heads, width 128")


def test_the_number_of_cross_attention_blocks_comes_from_the_file(state):
    second = {
        name.replace("blocks.0", "blocks.1"): tensor
        for name, tensor in part(state, "cross_attn_blocks.0").items()
    }
    assert len(load_varformer({**state, **second}).var.cross) == 2


def test_stable_diffusion_is_recognized():
    theirs = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
    refused({"state_dict": theirs}, "not a VarFormer checkpoint", "Stable Diffusion")
    refused({"params": {}}, "not a VarFormer checkpoint")
    with pytest.raises(ModelContractError, match="Stable Diffusion"):
        load_var_vqvae(theirs)
    with pytest.raises(ModelContractError, match="Stable Diffusion"):
        load_var(theirs)


@pytest.fixture
def checkpoint(tmp_path, state):
    path = tmp_path / "net_g_last.pth"
    torch.save({"params_ema": state}, path)
    return path


def test_a_file_gives_its_weights(checkpoint, network):
    assert same(load_varformer(load_checkpoint(checkpoint)), network)


def test_the_old_file_format_gives_its_weights(tmp_path, network, state):
    path = tmp_path / "old.pth"
    torch.save({"params_ema": state}, path, _use_new_zipfile_serialization=False)
    assert same(load_varformer(load_checkpoint(path)), network)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.999])
def test_a_truncated_file_is_refused(checkpoint, kept):
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ModelContractError, match=re.escape(checkpoint.name)):
        load_checkpoint(checkpoint)


class Harmful:
    """A pickle that creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("write", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_code_in_a_file_is_not_executed(tmp_path, write):
    evidence, path = tmp_path / "executed", tmp_path / "model.pth"
    write({"params_ema": {"weight": Harmful(evidence)}}, path)
    with pytest.raises(ModelContractError, match="nothing was executed"):
        load_checkpoint(path)
    assert not evidence.exists()


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"params": {"a": "b"}}])
def test_a_file_without_weights_is_refused(tmp_path, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ModelContractError, match=re.escape("other.pth: not a ")):
        load_checkpoint(path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    path = tmp_path / "picture.pth"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(ModelContractError):
        load_checkpoint(path)
    with pytest.raises(ModelMissingError):
        load_checkpoint(tmp_path / "absent.pth")
