"""Training learns, and a stopped run goes on to the same result."""

import json

import cv2
import numpy as np
import pytest
import torch

from varfix.engine.errors import ConfigError, NothingToDoError
from varfix.engine.networks.prior import PriorConfig, PriorNetwork
from varfix.engine.networks.restorer import RestorerConfig, RestorerNetwork
from varfix.engine.networks.transformer import TransformerConfig
from varfix.engine.networks.varformer_s import VarformerS
from varfix.engine.networks.vqvae import VqvaeConfig
from varfix.engine.train.loop import SHIPPED_RECIPE, Trainer, learning_rate
from varfix.engine.train.photos import load_photos
from varfix.engine.train.recipe import load_recipe
from varfix.engine.train.stages import Batches, sampler, stage_recipes

TINY = [
    "save_every=2",
    "vqvae={steps: 3, pictures: 2, warmup: 1}",
    "prior={steps: 3, pictures: 2, warmup: 1}",
    "restorer={steps: 5, pictures: 2, patches: 1, patch: 64, warmup: 1}",
]


def tiny_network():
    vqvae = VqvaeConfig(channels=16, multipliers=(1, 1, 1), blocks=1, codes=16, groups=8, patch=4)
    transformer = TransformerConfig(width=16, heads=2, depth=1, memory=48, codes=16)
    return VarformerS(
        PriorNetwork(PriorConfig(vqvae, transformer, adapter=16)),
        RestorerNetwork(RestorerConfig(widths=(8, 8, 8, 8), blocks=1, middle=1)),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three photographs, one of them too small to use."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, size in [("a.png", (300, 280)), ("b.jpg", (256, 400)), ("tiny.png", (40, 40))]:
        coarse = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        assert cv2.imwrite(str(folder / name), picture)
    return folder


@pytest.fixture
def recipe():
    return load_recipe(SHIPPED_RECIPE, TINY)


def weights(out):
    from safetensors.torch import load_file

    return load_file(out / "weights.safetensors")


def diary(out):
    lines = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def test_a_run_that_was_killed_twice_ends_like_an_unbroken_one(folder, recipe, tmp_path):
    photos = load_photos([folder])
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    Trainer(recipe, photos, tmp_path / "whole", tiny_network).run()
    for fatal in (("prior", 2), ("restorer", 3)):
        with pytest.raises(KeyboardInterrupt):
            Mortal(recipe, photos, tmp_path / "broken", tiny_network).dying_at(*fatal).run()
    Trainer(recipe, photos, tmp_path / "broken", tiny_network).run()
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    assert diary(tmp_path / "whole") == diary(tmp_path / "broken")
    assert len(diary(tmp_path / "whole")) == 3 + 3 + 5


class Mortal(Trainer):
    """A trainer that is killed before a given step is written down."""

    def dying_at(self, stage, step):
        self.fatal = (stage, step)
        return self

    def _log(self, stage, step, losses):
        if (stage.name, step) == self.fatal:
            raise KeyboardInterrupt
        super()._log(stage, step, losses)


def test_a_few_steps_make_the_vqvae_better(folder, tmp_path):
    recipe = load_recipe(
        SHIPPED_RECIPE, [*TINY, "vqvae={steps: 40, pictures: 2, warmup: 1, rate: 3.0e-3}"]
    )
    trainer = Trainer(recipe, load_photos([folder]), tmp_path, tiny_network)
    trainer.run()
    errors = [line["l1"] for line in diary(tmp_path) if line["stage"] == "vqvae"]
    assert np.mean(errors[-5:]) < 0.8 * np.mean(errors[:5])


def test_a_batch_is_the_same_whenever_it_is_made(folder, recipe):
    stage = stage_recipes(recipe)["restorer"]
    batches = Batches(load_photos([folder]), stage, recipe.degradations, seed=3)
    first, again, other = batches[4], batches[4], batches[5]
    assert torch.equal(first.patches, again.patches)
    assert not torch.equal(first.patches, other.patches)
    assert first.patches.shape == (2, 3, 64, 64)
    assert first.samplers.shape == (2, 2, 4, 16)


def test_pictures_that_are_too_small_are_left_out(folder):
    assert len(load_photos([folder])) == 2


def test_no_photographs_is_an_error_that_says_what_is_wanted(tmp_path):
    with pytest.raises(NothingToDoError, match="no photographs"):
        load_photos([tmp_path])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("vqvae.stepz=3", 'no key "vqvae.stepz"'),
        ("mix={fog: 1.0}", 'unknown degradation "fog"'),
        ("seed=one", "Expected `int`"),
    ],
)
def test_a_wrong_recipe_is_refused_by_name(override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(SHIPPED_RECIPE, [override])


def test_the_learning_rate_rises_then_falls_to_its_last_value(recipe):
    stage = load_recipe(SHIPPED_RECIPE).restorer
    rates = [learning_rate(stage, step, step) for step in range(stage.steps)]
    assert max(rates) == pytest.approx(stage.rate)
    assert rates[0] < 0.05 * stage.rate
    assert rates[-1] == pytest.approx(stage.last_rate, rel=0.1)


def test_a_finished_stage_that_goes_on_warms_its_new_optimiser_up():
    stage = load_recipe(SHIPPED_RECIPE).restorer
    middle = stage.steps // 2
    assert learning_rate(stage, middle, 0) == pytest.approx(
        learning_rate(stage, middle, stage.warmup) / stage.warmup
    )


def test_training_samples_the_prior_as_inference_does():
    from varfix.engine.guidance import crop_prior

    maps = torch.rand(6, 16, 16)
    rows, columns = sampler(96, 128, 448), sampler(208, 128, 448)
    ours = rows @ maps @ columns.T
    theirs = crop_prior(maps.numpy(), (448, 448), (96, 208), 128, 16)
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-5, rtol=1e-5)
