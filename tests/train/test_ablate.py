"""Ablations disable one part each, in a copy of the network."""

import numpy as np
import pytest
import torch
from PIL import Image

from varfix.engine.evaluation.test_sets import BenchmarkFilter
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.settings.types import Settings
from varfix.engine.train import ablation as ablate
from varfix.engine.train.ablation import (
    VARIATIONS,
    SequentialTransformer,
    TilePrior,
    ZeroedPrior,
    run_ablations,
    table,
)
from varfix.engine.train.torch_restorer import TorchRestorer


@pytest.fixture
def network(tiny):
    """A tiny network in which every part has an effect."""
    torch.manual_seed(3)
    built = tiny.build().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return built


@pytest.fixture
def pixels():
    rng = np.random.default_rng(1)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    return np.asarray(small.resize((192, 128), Image.Resampling.BICUBIC), np.float32) / 255


def restored(restorer, pixels):
    return restore_image(restorer, pixels, Settings())


def as_one_tile(restorer, square):
    """Restore an image of the thumbnail's size, which is its own thumbnail and only tile."""
    prior = restorer.prior(PriorInput(square, "auto"))
    return restorer.restore(square[None], prior[None]).pixels[0]


def test_the_restorer_gives_the_result_of_the_network(network, pixels):
    square = np.ascontiguousarray(np.kron(pixels, np.ones((2, 2, 1)))[:256, :256], np.float32)
    image = torch.from_numpy(square).permute(2, 0, 1)[None]
    with torch.no_grad():
        expected = network(image, torch.tensor([0]))[0].permute(1, 2, 0).numpy()
    np.testing.assert_allclose(as_one_tile(TorchRestorer(network), square), expected, atol=2e-5)


@pytest.mark.parametrize("variation", VARIATIONS[1:], ids=lambda variation: variation.name)
def test_every_variation_changes_the_result_but_not_the_network(variation, network, pixels):
    import copy

    before = restored(TorchRestorer(network, tile=64), pixels)
    changed = copy.deepcopy(network)
    variation.change(changed)
    restorer = variation.build(changed)
    restorer.tile = 64  # several tiles
    after = restored(restorer, pixels)
    assert after.shape == before.shape
    assert not np.array_equal(before, after)
    assert np.array_equal(before, restored(TorchRestorer(network, tile=64), pixels))


def test_ten_passes_equal_one_pass_over_their_prediction(network):
    """Teacher forcing with the final prediction does not change the prediction."""
    prior = network.prior
    torch.manual_seed(4)
    memory = torch.randn(2, 256, prior.transformer.read_memory.in_features)
    task, nothing = torch.tensor([0, 3]), torch.zeros(2, 679, 32)
    with torch.no_grad():
        _, logits = SequentialTransformer(prior)(nothing, memory, task)
        own = prior.vqvae.quantize.pyramid(prior.expectation(logits))
        _, forced = prior.transformer(own, memory, task)
        _, blind = prior.transformer(nothing, memory, task)
    torch.testing.assert_close(logits, forced, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits, blind, atol=1e-2)


def test_one_part_of_the_prior_is_zeroed(network, pixels):
    thumbnail = np.zeros((256, 256, 3), np.float32)
    whole = TorchRestorer(network).prior(PriorInput(thumbnail, "rain"))
    edges = np.cumsum([0, *network.restorer.parts])
    for part in range(len(network.restorer.parts)):
        maps = ZeroedPrior(network, zeroed=(part,)).prior(PriorInput(thumbnail, "rain"))
        assert not maps[edges[part] : edges[part + 1]].any()
        maps[edges[part] : edges[part + 1]] = whole[edges[part] : edges[part + 1]]
        assert np.array_equal(maps, whole)


def test_the_prior_of_a_tile_is_that_of_the_image_if_they_are_equal(network, pixels):
    square = np.ascontiguousarray(np.kron(pixels, np.ones((2, 2, 1)))[:256, :256], np.float32)
    image_prior, tile_prior = TorchRestorer(network), TilePrior(network)
    np.testing.assert_allclose(
        as_one_tile(image_prior, square), as_one_tile(tile_prior, square), atol=1e-5
    )


def test_the_table_has_a_line_for_each_variation(tmp_path, network, pixels, monkeypatch, tiny):
    from varfix.engine.train.checkpoint import save_weights

    monkeypatch.setattr(ablate, "build_varformer_s", tiny.build)
    save_weights(network, tmp_path / "weights.safetensors")
    (tmp_path / "val/kodak24").mkdir(parents=True)
    image = (pixels * 255).astype(np.uint8)
    Image.fromarray(image).save(tmp_path / "val/kodak24/a.png")
    choice = BenchmarkFilter(only=("kodak24",), sample=1, titles=("Kodak24, rain", "Kodak24, snow"))
    done = list(run_ablations(tmp_path / "weights.safetensors", tmp_path / "val", choice))
    lines = table(done).splitlines()
    assert len(lines) == 2 + len(VARIATIONS)
    assert lines[0] == "| | Kodak24, rain | Kodak24, snow |"
    assert {line.count("|") for line in lines} == {4}
    assert lines[2].startswith("| as trained |")
