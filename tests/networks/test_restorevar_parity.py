"""RestoreVAR computes the released network's function (engine/networks/README.md).

The golden arrays were made by the released classes with synthetic weights, whose attention is so
sharp that rounding grows from scale to scale. So each run is made twice: from the stored latent of
the degraded image, where a tenth of the tolerance must do, and from the image. With `-s`
pytest tells the worst difference of every stage.
"""

import re
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.restorevar_parity import (
    facts,
    fields_of,
    golden_case,
    image,
    module,
    released_network,
    stage_names,
    stored,
    wrong,
)
from torch.nn import functional

CASES = [
    pytest.param(3, id="tiny3"),
    pytest.param(4, id="tiny4"),
    pytest.param(2, id="256", marks=pytest.mark.slow),
    pytest.param(1, id="512", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=CASES)
def golden(request):
    return golden_case(request.param)


@pytest.fixture(scope="module")
def network(golden):
    return released_network(golden)


@pytest.fixture(scope="module")
def tolerances(golden):
    return module("check_golden").TOL[facts(golden)["config"]]


def near(ours, theirs, allowed):
    difference = np.abs(ours.numpy().astype(np.float64) - theirs).max()
    assert difference <= allowed


@torch.no_grad()
def run(network, golden, latent, tokens=None):
    """A run of all that follows the encoder: its fields, as the kit calls them."""
    seen = {}
    refined = network.restored_latent(latent, seen.__setitem__, tokens)
    seen["restored"] = network.decode(refined)
    pyramid = network.vqvae.quantize.pyramid(seen["increments"])
    arrays = {name: seen[name][0].numpy() for name in (*stage_names(golden), "restored")}
    return fields_of(golden, arrays) | {"next_inputs": pyramid[0].numpy()}


def place_of(stage):
    """The layer of the VQ-VAE whose result the kit calls so, as in enc.down0.downsample."""
    part, _, rest = stage.partition(".")
    name = re.sub(r"^(down|up)(\d)", r"\1.\2", rest)
    return ".".join([{"enc": "encoder", "dec": "decoder"}.get(part, part), name]).rstrip(".")


@contextmanager
def layers(network, stages):
    """Collects what the VQ-VAE's layers give meanwhile, by the kit's names."""
    seen, hooks = {}, []
    for stage in stages:
        layer = network.vqvae.get_submodule(place_of(stage))
        hooks.append(
            layer.register_forward_hook(
                lambda _layer, _x, result, stage=stage: seen.update({stage: result[0].numpy()})
            )
        )
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def test_the_degraded_and_the_clean_image_have_the_same_latents(network, golden, tolerances):
    near(network.vqvae.encoder(image(golden))[0], golden["cond_latent"], tolerances["cond_latent"])
    clean = network.vqvae.encode(image(golden, "clean_u8"))
    near(clean[0], golden["clean_latent"], tolerances["clean_latent"])
    projected = network.writer.project(stored(golden, "cond_latent").flatten(2).transpose(1, 2))
    words = network.writer.degraded_word(projected)[0, ::37]
    near(words, golden["cond_tokens"], tolerances["cond_tokens"])


@torch.no_grad()
def test_every_level_of_encoder_and_decoder_is_reproduced(network, golden):
    stages = [name.removeprefix("probe.") for name in golden.files if name.startswith("probe.")]
    with layers(network, stages) as seen:
        network.vqvae.encoder(image(golden))
        network.decode(stored(golden, "refined"))
    corners = {f"probe.{stage}": result[:8, :8, :8] for stage, result in seen.items()}
    ends = {f"probe_last.{stage}": result[:8, -4:, -4:] for stage, result in seen.items()}
    assert len(corners) == len(stages) > 5
    assert wrong(golden, corners | ends, "forced", False) == []


def test_token_forced_every_stage_is_reproduced_from_the_stored_latent(network, golden):
    latent, tokens = stored(golden, "cond_latent"), stored(golden, "tokens")
    assert wrong(golden, run(network, golden, latent, tokens), "forced", True) == []


@torch.no_grad()
def test_token_forced_every_stage_is_reproduced_from_the_image(network, golden):
    latent = network.vqvae.encoder(image(golden))
    fields = run(network, golden, latent, stored(golden, "tokens"))
    assert wrong(golden, fields, "forced", False) == []


def test_free_running_it_writes_the_same_tokens_from_the_stored_latent(network, golden):
    fields = run(network, golden, stored(golden, "cond_latent"))
    assert np.array_equal(fields["logits_full"].argmax(-1), golden["tokens"])
    assert wrong(golden, fields, "free", True) == []


@torch.no_grad()
def test_free_running_from_the_image_only_uncertain_tokens_may_differ(network, golden):
    fields = run(network, golden, network.vqvae.encoder(image(golden)))
    refused = wrong(golden, fields, "free", False)
    differing = (fields["logits_full"].argmax(-1) != golden["tokens"]).mean()
    assert differing < (0.01 if facts(golden)["config"] == "512" else 1e-9)
    assert "tokens" not in [name for name, _, _ in refused]  # equal up to the first uncertain one
    assert differing > 0.0 or refused == []


@torch.no_grad()
def test_teacher_forced_all_scales_at_once_give_the_same_logits(network, golden, tolerances):
    quantize, writer = network.vqvae.quantize, network.writer
    tokens, latent = stored(golden, "tf_tokens"), stored(golden, "cond_latent")
    increments = quantize.increments(tokens)
    near(increments.sum(1)[0], golden["vq_f_hat"], tolerances["f_hat"])
    pyramid = quantize.pyramid(increments)
    near(pyramid[0, ::53], golden["tf_inputs_sel"], tolerances["next_inputs"])
    logits = writer.teacher_forced_logits(writer.conditioning(latent), pyramid)[0]
    rows = golden["sel_tokens"].astype(np.int64)
    near(logits[rows], golden["tf_logits_sel"], tolerances["logits"] / 10)
    near(logits.logsumexp(-1), golden["tf_logsumexp"], tolerances["logits"] / 10)
    certain = golden["tf_margin"] > tolerances["margin"] / 10
    assert np.array_equal(logits.argmax(-1).numpy()[certain], golden["tf_argmax"][certain])
    entropy = functional.cross_entropy(logits, tokens[0])
    assert float(entropy) == pytest.approx(float(golden["tf_ce"]), abs=tolerances["logits"] / 10)


@torch.no_grad()
def test_the_clean_latent_has_the_same_tokens_and_image(network, golden, tolerances):
    latent, tokens = stored(golden, "clean_latent"), stored(golden, "tf_tokens")
    quantize = network.vqvae.quantize
    known = quantize.increments(tokens)
    sizes = np.cumsum([0, *(p * p for p in quantize.scales)])
    for k, (first, last) in enumerate(pairwise(sizes)):
        rest = latent - known[:, :k].sum(1)
        rows = quantize.pool(rest, k).flatten(2).transpose(1, 2)
        certain = golden["vq_margin"][first:last] > 1e-3
        found = quantize.nearest(rows)[0].numpy()
        assert np.array_equal(found[certain], golden["tf_tokens"][first:last][certain])
    drawn = 2.0 * network.decode(latent)[0, :, ::4, ::4] - 1.0  # stored in [-1, 1]
    near(drawn, golden["recon_cont_f32_stride4"], 2.0 * tolerances["image"])
