"""RestoreVAR's parts and its loader, on a configuration small enough for every run of the tests."""

import math
import re

import pytest
import torch
from support.released_networks import check_each_alone, from_transformer, randomised, same

from varfix.engine.errors import ModelContractError
from varfix.engine.networks.checkpoints.load import load_checkpoint, load_restorevar
from varfix.engine.networks.layers.attention import (
    KeyValueCache,
    RotaryEmbedding,
    inverse_temperature,
    rotary_angles,
)
from varfix.engine.networks.layers.quantizer import FINE_SCALES, PHI_OF_SCALE, SCALES, Quantizer
from varfix.engine.networks.layers.vqvae import Vqvae, VqvaeConfig
from varfix.engine.networks.restorevar.model import RestoreVar, RestoreVarConfig
from varfix.engine.networks.restorevar.refiner import Refiner, RefinerConfig
from varfix.engine.networks.restorevar.transformer import (
    AttentionContext,
    RestoreVarBlock,
    RestoreVarTransformer,
    RestoreVarTransformerConfig,
)

FEW = (1, 2, 3, 4)
WRITER = RestoreVarTransformerConfig(
    width=64, heads=2, depth=2, latent=8, codes=16, classes=3, scales=FEW
)
TINY = RestoreVarConfig(
    vqvae=VqvaeConfig(channels=32, multipliers=(1, 2, 2), blocks=1, latent=8, codes=16, scales=FEW),
    writer=WRITER,
    refiner=RefinerConfig(
        width=64, heads=1, depth=1, feed=96, latent=8, states=64, side=4, length=30
    ),
)

PUBLIC = [
    (r"vqvae\.quantize\.phi", "quantize.quant_resi.qresi_ls"),
    (r"vqvae\.", ""),
    *from_transformer("writer"),
    (r"writer\.project\.", "cond_proj4."),
    (r"writer\.whole_gain", "global_embed_gain"),
    (r"writer\.whole\.", "global_embed."),
    (r"writer\.degraded_word\.", "word_embed_cond."),
    (r"writer\.degraded_scale\.", "lvl_embed_cond."),
    (r"writer\.blocks\.(\d)\.cross\.sharpness", r"blocks.\1.cross_attn.scale_mul_1H11"),
    (r"writer\.blocks\.(\d)\.cross\.gain", r"blocks.\1.cross_attn.gain"),
    (r"writer\.blocks\.(\d)\.cross\.query\.", r"blocks.\1.cross_attn.q_proj."),
    (r"writer\.blocks\.(\d)\.cross\.key_value\.", r"blocks.\1.cross_attn.kv_proj."),
    (r"writer\.blocks\.(\d)\.cross\.project\.", r"blocks.\1.cross_attn.out_proj."),
    (r"writer\.blocks\.(\d)\.cross\.norm_query\.", r"blocks.\1.cross_attn.norm_q."),
    (r"writer\.blocks\.(\d)\.cross\.norm_key_value\.", r"blocks.\1.cross_attn.norm_kv."),
    (r"refiner\.position", "vae_refiner.pos_embedding"),
    (r"refiner\.states_position", "vae_refiner.pos_embedding_cond"),
    (r"refiner\.norm_latent\.", "vae_refiner.norm_in."),
    (r"refiner\.norm_states\.", "vae_refiner.norm_in_cond."),
    (r"refiner\.enter_latent\.", "vae_refiner.proj_in."),
    (r"refiner\.enter_states\.", "vae_refiner.proj_in_cond."),
    (r"refiner\.leave\.", "vae_refiner.proj_out."),
    (r"refiner\.norm\.", "vae_refiner.transformer.norm."),
    (r"refiner\.blocks\.(\d)\.norm_self\.", r"vae_refiner.transformer.layers.\1.0.norm."),
    (r"refiner\.blocks\.(\d)\.attention\.qkv\.", r"vae_refiner.transformer.layers.\1.0.to_qkv."),
    (
        r"refiner\.blocks\.(\d)\.attention\.project\.",
        r"vae_refiner.transformer.layers.\1.0.to_out.0.",
    ),
    (r"refiner\.blocks\.(\d)\.feed\.([01])\.", r"vae_refiner.transformer.layers.\1.1.net.\2."),
    (r"refiner\.blocks\.(\d)\.feed\.3\.", r"vae_refiner.transformer.layers.\1.1.net.4."),
    (r"refiner\.blocks\.(\d)\.norm_query\.", r"vae_refiner.transformer.layers.\1.2.norm_q."),
    (r"refiner\.blocks\.(\d)\.norm_key_value\.", r"vae_refiner.transformer.layers.\1.2.norm_kv."),
    (r"refiner\.blocks\.(\d)\.cross\.query\.", r"vae_refiner.transformer.layers.\1.2.to_q."),
    (r"refiner\.blocks\.(\d)\.cross\.key_value\.", r"vae_refiner.transformer.layers.\1.2.to_kv."),
    (r"refiner\.blocks\.(\d)\.cross\.project\.", r"vae_refiner.transformer.layers.\1.2.to_out."),
]
"""From our names to the public ones: the reverse of what the loader does."""


def public_name(name):
    for pattern, replacement in PUBLIC:
        if re.match(pattern, name):
            return re.sub("^" + pattern, replacement, name)
    raise AssertionError(name)


def untrained():
    return RestoreVar(Vqvae(TINY.vqvae), RestoreVarTransformer(TINY.writer), Refiner(TINY.refiner))


@pytest.fixture(scope="module")
def network():
    return randomised(untrained(), 0.3)


@pytest.fixture
def states(network):
    """Both files as published, with what can be computed and is therefore not read."""
    named = {public_name(name): value for name, value in network.state_dict().items()}
    vae = re.compile(r"(encoder|decoder|quantize|quant_conv|post_quant_conv)\.")
    transformer = {name: value for name, value in named.items() if not vae.match(name)}
    levels = [torch.full((p * p,), k) for k, p in enumerate(FEW)]
    transformer |= {
        "lvl_1L": torch.cat(levels)[None],
        "lvl_1L_cond": torch.zeros(1, 16, dtype=torch.int64),
        "attn_bias_for_masking": torch.zeros(1, 1, 30, 30),
        "freqs_cis": torch.zeros(30, 16, dtype=torch.complex64),
        "freqs_cis_cross": torch.zeros(16, 16, dtype=torch.complex64),
        "blocks.0.attn.zero_k_bias": torch.zeros(64),
    }
    rest = {name: value for name, value in named.items() if vae.match(name)}
    return transformer, rest | {"quantize.ema_vocab_hit_SV": torch.zeros(4, 16)}


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(1)
    return torch.rand(2, 3, 16, 16) * 2.0 - 1.0


def test_an_image_of_a_batch_gives_exactly_what_it_gives_alone(network, images):
    check_each_alone(network, images)


def test_an_image_of_another_size_is_refused(network):
    with pytest.raises(ValueError, match="3 x 16 x 16"):
        network(torch.zeros(1, 3, 16, 32))


@torch.no_grad()
def test_scale_by_scale_and_all_at_once_the_logits_are_the_same(network, images):
    """The cache passed from scale to scale is what the mask lets through."""
    latent, quantize = network.vqvae.encoder(images), network.vqvae.quantize
    conditioning = network.writer.conditioning(latent)
    written = network.writer.predict(conditioning, quantize).prediction
    together = network.writer.teacher_forced_logits(
        conditioning, quantize.pyramid(written.increments)
    )
    torch.testing.assert_close(together, written.logits, atol=2e-4, rtol=1e-4)


@torch.no_grad()
def test_in_training_the_degraded_image_is_read_alike(network, images):
    latent = network.vqvae.encoder(images[:1])
    reading = network.writer.blocks[0].cross
    memory, rotary = network.writer.conditioning(latent).caches[0], network.writer.rotary(2)
    x = torch.randn(1, 9, 64)
    used, trained = reading(x, memory, rotary), reading.train()(x, memory, rotary)
    reading.eval()
    torch.testing.assert_close(trained, used, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_degraded_image_reaches_every_scale(network, images):
    latent = network.vqvae.encoder(images)
    tokens = torch.zeros(2, 30, dtype=torch.int64)
    logits = network.writer(latent, network.vqvae.quantize, tokens=tokens).prediction.logits
    difference = (logits[0] - logits[1]).abs().amax(-1)
    assert difference.min() > 1e-3


@torch.no_grad()
def test_closed_gates_leave_the_degraded_image_out(images):
    torch.manual_seed(0)
    network = untrained().eval()  # gates begin at zero
    latent = network.vqvae.encoder(images)
    logits = network.writer(latent, network.vqvae.quantize).prediction.logits
    assert torch.equal(logits[0], logits[1])


def test_turning_keeps_lengths_and_depends_on_distance_only():
    table = rotary_angles((8,), 32)
    rotary = RotaryEmbedding(table.cos().float(), table.sin().float())
    q, k = torch.randn(32), torch.randn(32)
    turned_q = rotary.apply(q.expand(1, 1, 64, 32))[0, 0].unflatten(0, (8, 8))
    turned_k = rotary.apply(k.expand(1, 1, 64, 32))[0, 0].unflatten(0, (8, 8))
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(8, 8))
    near = (turned_q[2, 5] * turned_k[1, 3]).sum()
    far = (turned_q[6, 7] * turned_k[5, 5]).sum()
    torch.testing.assert_close(near, far, atol=1e-4, rtol=1e-4)
    other = (turned_q[2, 5] * turned_k[3, 5]).sum()
    assert abs(float(near - other)) > 1e-3


def test_rows_turn_the_first_half_of_a_head_and_columns_the_second():
    table = rotary_angles((2,), 64)  # tokens (0, 0), (0, 1), (1, 0), (1, 1)
    assert not table[0].any()
    assert not table[1, :16].any()
    assert table[1, 16:].all()
    assert table[2, :16].all()
    assert not table[2, 16:].any()
    assert torch.equal(table[3], table[1] + table[2])


def test_coarse_maps_are_stretched_over_the_finest_grid():
    table = rotary_angles((1, 2, 4), 8)
    coarse, fine = table[1:5], table[5:]
    assert torch.equal(coarse[3], fine[4 * 2 + 2])


def test_the_mean_of_the_degraded_latent_enters_the_first_token():
    torch.manual_seed(0)
    writer = RestoreVarTransformer(WRITER)
    writer.initialize()
    latent = torch.randn(1, 8, 4, 4)
    closed = writer.conditioning(latent).start
    with torch.no_grad():
        writer.whole_gain.fill_(1.0)
    gained = writer.conditioning(latent).start - closed
    mean = writer.project(latent.flatten(2).transpose(1, 2)).mean(1, keepdim=True)
    torch.testing.assert_close(gained, writer.whole(mean), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_branches_are_left_out_for_some_images_in_training_only():
    torch.manual_seed(0)
    block = RestoreVarBlock(WRITER, drop=0.5)
    table = rotary_angles((2,), 32)
    memory = KeyValueCache(torch.randn(64, 2, 4, 32), torch.randn(64, 2, 4, 32))
    context = AttentionContext(
        memory, None, RotaryEmbedding(table.cos().float(), table.sin().float())
    )
    x = torch.randn(1, 4, 64).expand(64, -1, -1)
    trained, _ = block(x, context)
    used, _ = block.eval()(x, context)
    untouched = (trained == x).all(-1).all(-1)  # all three branches left out; gain is zero
    assert 0.05 < untouched.float().mean() < 0.6
    assert torch.equal(used[:1].expand_as(used), used)
    torch.testing.assert_close(trained.mean(0), used.mean(0), atol=0.5, rtol=0.5)


def test_a_head_can_sharpen_its_cosines_a_hundred_times_and_no_more():
    learned = torch.tensor([math.log(4.0), math.log(99.0), 5.0, 50.0])
    wanted = torch.tensor([4.0, 99.0, 100.0, 100.0])
    torch.testing.assert_close(inverse_temperature(learned), wanted)


@pytest.mark.parametrize("scales", [SCALES, FINE_SCALES])
def test_a_token_map_of_every_scale_finds_its_way_back(scales):
    quantizer = Quantizer(codes=8, channels=4, scales=scales)
    side, count = scales[-1], sum(p * p for p in scales)
    found = quantizer(torch.randn(1, 4, side, side))
    assert found.tokens.shape == (1, count)
    torch.testing.assert_close(quantizer.increments(found.tokens), found.increments)
    assert quantizer.pyramid(found.increments).shape == (1, count - 1, 4)


def test_where_two_convolutions_are_equally_near_the_released_rounding_decides():
    assert PHI_OF_SCALE[10] == (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)
    assert Quantizer(8, 4, FEW).phi_of_scale == (0, 1, 2, 3)


def test_every_entry_finds_its_place(network, states, images):
    loaded = load_restorevar(*states)
    assert same(loaded, network)
    with torch.no_grad():
        assert torch.equal(loaded(images), network(images))


def test_the_trainings_own_checkpoint_holds_both(network, states, tmp_path):
    transformer, vae = states
    content = {"epoch": 3, "iter": 5, "trainer": {"var_wo_ddp": transformer, "vae_local": vae}}
    assert same(load_restorevar(content, content), network)
    assert same(load_restorevar({"state_dict": transformer}, {"state_dict": vae}), network)
    torch.save(content, tmp_path / "ar-ckpt-last.pth")
    read = load_checkpoint(tmp_path / "ar-ckpt-last.pth")
    assert read.keys() == transformer.keys()


def test_a_checkpoint_is_not_in_memory_twice(states):
    loaded = load_restorevar(*states)
    assert loaded.writer.word.weight.data_ptr() == states[0]["word_embed.weight"].data_ptr()
    assert {t.device.type for t in [*loaded.parameters(), *loaded.buffers()]} == {"cpu"}


def refused(states, *words):
    with pytest.raises(ModelContractError) as raised:
        load_restorevar(*states)
    for word in words:
        assert word in str(raised.value)


def test_missing_unknown_and_misshapen_entries_are_named(states):
    transformer, vae = states
    refused(({**transformer, "blocks.0.ada_lin.1.bias": torch.zeros(1)}, vae), "unknown", "ada_lin")
    refused((transformer, {**vae, "word_embed.bias": torch.zeros(1)}), "unknown", "word_embed.bias")
    refused(({**transformer, "head.bias": torch.zeros(7)}, vae), "head.bias is 7 float32")
    without = {k: v for k, v in transformer.items() if k != "blocks.1.cross_attn.gain"}
    refused((without, vae), "missing", "writer.blocks.1.cross.gain")
    first_stage = {k: v for k, v in transformer.items() if not k.startswith("vae_refiner.")}
    refused((first_stage, vae), "vae_refiner.pos_embedding_cond")


def test_other_networks_are_refused_as_such(states):
    transformer, vae = states
    foreign = {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(1)}
    refused((foreign, vae), "RestoreVAR", "Stable Diffusion")
    refused((transformer, foreign), "VQ-VAE", "Stable Diffusion")
    refused((vae, transformer), "not a RestoreVAR checkpoint")


def test_files_of_two_networks_do_not_fit_together(states):
    transformer, vae = states
    other = {**vae, "quantize.embedding.weight": torch.zeros(32, 8)}
    refused((transformer, other), "do not match", "16 codes", "32")


def test_token_maps_that_are_not_known_are_refused(states):
    transformer, vae = states
    unknown = {k: v for k, v in transformer.items() if k != "lvl_1L"}
    refused((unknown, vae), "sides unknown")


def test_another_depth_is_refused(states):
    transformer, vae = states
    with pytest.raises(ModelContractError, match="depth 2, expected 16"):
        load_restorevar(transformer, vae, depth=16)
