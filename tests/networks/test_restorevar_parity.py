"""RestoreVAR computes the released network's function (parity/restorevar/SPEC.md, section 11).

The golden arrays were made by the released classes with synthetic weights, whose attention is so
sharp that rounding grows from scale to scale. So each run is made twice: from the stored latent of
the degraded picture, where a tenth of the tolerance must do, and from the picture.
"""

from itertools import pairwise

import numpy as np
import pytest
import torch
from restorevar_kit import (
    PARITY,
    facts,
    golden_case,
    module,
    picture,
    released_network,
    stored,
)
from torch.nn import functional

CASES = [
    pytest.param(3, id="tiny3"),
    pytest.param(4, id="tiny4"),
    pytest.param(2, id="256", marks=pytest.mark.slow),
    pytest.param(1, id="512", marks=pytest.mark.slow),
]
BRANCHES = {"attention": "attn", "feed": "ffn", "cross": "cross_attn"}
REFINER_BRANCHES = {"attention": "attn", "feed": "ff", "cross": "ca"}


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


class Run:
    """A run of all that follows the encoder, and what it came by."""

    @torch.no_grad()
    def __init__(self, network, golden, latent, tokens=None):
        self.seen, self.golden = {}, golden
        chosen = [int(i) for i in golden["sel_tokens"]]
        self.rows = torch.tensor(chosen)
        refined = network.refined(latent, self.keep, tokens)
        pyramid = network.vqvae.quantize.pyramid(self.seen["increments"])
        self.outputs = {
            "logits_full": self.seen["logits"][0].numpy(),
            "last_block_sel": self.seen["states"][0, self.rows].numpy(),
            "last_block_mean": self.seen["states"][0].mean(-1).numpy(),
            "last_block_std": self.seen["states"][0].std(-1).numpy(),
            "next_inputs": pyramid[0].numpy(),
            "f_hat": self.seen["quantized"][0].numpy(),
            "f_hat_scales": self.seen["increments"].cumsum(1)[0, ..., ::4, ::4].numpy(),
            "refined": refined[0].numpy(),
            "image": network.draw(refined)[0].numpy(),
        }

    def keep(self, name, value):
        """All blocks at every scale would be a gigabyte: keep what the kit stores."""
        parts = name.split("/")
        if parts[0] == "writer" and len(parts) == 3:  # block0/s3: the state after a block
            value = value[:, spots(value.shape[1])]
        elif parts[0] == "writer" and parts[1:] not in (["block0", b, "s2"] for b in BRANCHES):
            return
        elif parts[0] == "refiner":
            value = value[:, :16]
        self.seen[name] = value

    def branches(self):
        """What each branch of the first blocks adds."""
        return {
            **{
                f"block0.{theirs}.scale2": self.seen[f"writer/block0/{ours}/s2"][0].numpy()
                for ours, theirs in BRANCHES.items()
            },
            **{
                f"refiner0.{theirs}": self.seen[f"refiner/block0/{ours}"][0].numpy()
                for ours, theirs in REFINER_BRANCHES.items()
            },
        }

    def wrong(self, mode, from_latent, outputs=None):
        """What the kit's own comparison refuses."""
        path = PARITY / f"golden_restorevar_case{int(self.golden['case'])}.npz"
        report = module("check_golden").compare(path, outputs or self.outputs, mode, from_latent)
        return [line for line in report if not line[1]]


def skip_if_implied(golden):
    """The other two runs together show the same: forced from the latent, free from the picture."""
    if facts(golden)["config"] == "512":
        pytest.skip("implied by the other two runs, and each takes minutes")


def spots(length):
    """First, middle and last token of a scale."""
    return sorted({0, length // 2, length - 1})


@torch.no_grad()
def test_the_degraded_and_the_clean_picture_have_the_same_latents(network, golden, tolerances):
    near(
        network.vqvae.encoder(picture(golden))[0], golden["cond_latent"], tolerances["cond_latent"]
    )
    clean = network.vqvae.encode(picture(golden, "clean_u8"))
    near(clean[0], golden["clean_latent"], tolerances["clean_latent"])
    projected = network.writer.project(stored(golden, "cond_latent").flatten(2).transpose(1, 2))
    words = network.writer.degraded_word(projected)[0, ::37]
    near(words, golden["cond_tokens"], tolerances["cond_tokens"])


def test_token_forced_every_stage_is_reproduced_from_the_stored_latent(network, golden):
    latent, tokens = stored(golden, "cond_latent"), stored(golden, "tokens")
    run = Run(network, golden, latent, tokens)
    assert run.wrong("forced", True) == []
    assert run.wrong("forced", True, run.branches()) == []


def test_token_forced_every_stage_is_reproduced_from_the_picture(network, golden):
    skip_if_implied(golden)
    with torch.no_grad():
        latent = network.vqvae.encoder(picture(golden))
    assert Run(network, golden, latent, stored(golden, "tokens")).wrong("forced", False) == []


def test_free_running_it_writes_the_same_tokens_from_the_stored_latent(network, golden):
    skip_if_implied(golden)
    run = Run(network, golden, stored(golden, "cond_latent"))
    assert np.array_equal(run.outputs["logits_full"].argmax(-1), golden["tokens"])
    assert run.wrong("free", True) == []


@torch.no_grad()
def test_free_running_from_the_picture_only_uncertain_tokens_may_differ(network, golden):
    run = Run(network, golden, network.vqvae.encoder(picture(golden)))
    differing = (run.outputs["logits_full"].argmax(-1) != golden["tokens"]).mean()
    assert differing < (0.01 if facts(golden)["config"] == "512" else 1e-9)
    if differing == 0.0:
        assert run.wrong("free", False) == []


@torch.no_grad()
def test_teacher_forced_all_scales_at_once_give_the_same_logits(network, golden, tolerances):
    quantize, writer = network.vqvae.quantize, network.writer
    tokens, latent = stored(golden, "tf_tokens"), stored(golden, "cond_latent")
    increments = quantize.increments(tokens)
    near(increments.sum(1)[0], golden["vq_f_hat"], tolerances["f_hat"])
    pyramid = quantize.pyramid(increments)
    near(pyramid[0, ::53], golden["tf_inputs_sel"], tolerances["next_inputs"])
    logits = writer.score(writer.brief(latent), pyramid)[0]
    rows = golden["sel_tokens"].astype(np.int64)
    near(logits[rows], golden["tf_logits_sel"], tolerances["logits"] / 10)
    near(logits.logsumexp(-1), golden["tf_logsumexp"], tolerances["logits"] / 10)
    certain = golden["tf_margin"] > tolerances["margin"] / 10
    assert np.array_equal(logits.argmax(-1).numpy()[certain], golden["tf_argmax"][certain])
    entropy = functional.cross_entropy(logits, tokens[0])
    assert float(entropy) == pytest.approx(float(golden["tf_ce"]), abs=tolerances["logits"] / 10)


@torch.no_grad()
def test_the_clean_latent_has_the_same_tokens_and_picture(network, golden, tolerances):
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
    drawn = 2.0 * network.draw(latent)[0, :, ::4, ::4] - 1.0  # stored in [-1, 1]
    near(drawn, golden["recon_cont_f32_stride4"], 2.0 * tolerances["image"])
