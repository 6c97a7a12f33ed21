"""The VQ-VAE computes the released one's function."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from varfix.engine.networks.layers.quantizer import SCALES, Quantizer
from varfix.engine.networks.layers.vqvae import Vqvae, VqvaeConfig

PARITY = Path(__file__).parents[3] / "shared" / "parity" / "varformer"
SMALL = VqvaeConfig(channels=16, multipliers=(1, 2, 2), codes=64, groups=8, patch=4, blocks=1)


def released_weights(seed):
    """The kit's synthetic weights under this network's names."""
    spec = importlib.util.spec_from_file_location("fill_weights", PARITY / "fill_weights.py")
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    rows = (PARITY / "var_release_vae_keys.tsv").read_text().splitlines()[1:]
    shapes = dict(row.split("\t")[:2] for row in rows)
    return {
        name.replace("quant_resi.qresi_ls", "phi"): torch.from_numpy(
            kit.fill(name, tuple(map(int, shape.split("x"))), seed)
        )
        for name, shape in shapes.items()
        if not name.endswith("ema_vocab_hit_SV")
    }


@pytest.fixture(scope="module")
def golden():
    if not PARITY.is_dir():
        pytest.skip(f"no parity kit beside the repository ({os.fspath(PARITY)})")
    return np.load(PARITY / "golden_vqvae_case1.npz")


def worst(ours, theirs):
    return float(np.abs(ours.numpy() - theirs).max())


def test_it_reproduces_the_golden_case(golden):
    """Tolerances of engine/networks/README.md, "Parity"."""
    network = Vqvae(VqvaeConfig()).eval()
    network.load_state_dict(released_weights(int(golden["case_seed"])), strict=True)
    with torch.no_grad():
        latent = network.encode(torch.from_numpy(golden["input"]))
        found = network.quantize(latent)
        drawn = network.decode(found.latent).clamp(-1.0, 1.0)
    assert worst(latent, golden["z"]) < 1e-4
    assert np.array_equal(found.tokens.numpy(), golden["tokens"])
    assert worst(found.residuals, golden["pooled_residual"]) < 1e-4
    assert worst(found.increments.cumsum(1), golden["f_hat_cumulative"]) < 1e-4
    assert worst(network.quantize.pyramid(found.increments), golden["var_input"]) < 1e-4
    assert worst(drawn, golden["recon"]) < 1e-4


def test_an_image_is_described_by_680_tokens():
    found = Vqvae(SMALL).quantized(torch.zeros(2, 3, 256, 256))
    assert found.tokens.shape == (2, sum(p * p for p in SCALES)) == (2, 680)
    assert found.increments.shape == (2, 10, 32, 16, 16)


def test_the_increments_of_the_tokens_are_the_quantized_latent():
    quantizer = Quantizer(codes=32, channels=8)
    found = quantizer(torch.randn(1, 8, 16, 16))
    rows = found.tokens.split([p * p for p in SCALES], 1)
    rebuilt = [quantizer.increment(quantizer.embedding(r), k) for k, r in enumerate(rows)]
    torch.testing.assert_close(torch.stack(rebuilt, 1).sum(1), found.latent)


def test_an_image_of_a_batch_gives_what_it_gives_alone():
    network, images = Vqvae(SMALL).eval(), torch.rand(2, 3, 256, 256)
    with torch.no_grad():
        both, alone = network(images), network(images[1:])
    torch.testing.assert_close(both[1:], alone, atol=1e-5, rtol=0)
