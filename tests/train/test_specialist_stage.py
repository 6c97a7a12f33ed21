"""A specialist is trained with patches alone, and a resumed run has the same result."""

from dataclasses import replace

import pytest
import torch

from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.specialist import SpecialistConfig, SpecialistNetwork
from varfix.engine.train.data.batches import Batches
from varfix.engine.train.data.photos import load_photos
from varfix.engine.train.data.source import Synthetic
from varfix.engine.train.loop import Trainer
from varfix.engine.train.recipes.recipe import load_recipe
from varfix.engine.train.stages.losses import amplitude_loss, charbonnier
from varfix.engine.train.stages.specialist import SHARPNESS_WEIGHT, SpecialistStage
from varfix.engine.train.trainable import RECIPES, trainable_named

SMALL = SpecialistConfig(widths=(8, 8, 8, 8), blocks=1, middle=1)
STAGE = "specialist={steps: 6, batch_size: 2, patches: 4, patch: 32, per_step: 4, warmup: 1}"


@pytest.fixture
def trainer(folder):
    def make(out, *overrides):
        recipe = load_recipe(RECIPES / "denoise.yaml", ["report_every=0", STAGE, *overrides])
        trainable = replace(trainable_named("specialist"), build=lambda: SpecialistNetwork(SMALL))
        out.mkdir(exist_ok=True)
        source = Synthetic(load_photos([folder]), recipe.degradations)
        return Trainer(recipe, trainable, source, out)

    return make


def test_a_resumed_run_has_the_same_result(trainer, tmp_path, weights, metrics):
    trainer(tmp_path / "whole").run()
    first = trainer(tmp_path / "broken", "save_every=2")
    steps = first._steps

    def stopped(*arguments):
        for number, step in enumerate(steps(*arguments)):
            if number == 3:
                raise KeyboardInterrupt
            yield step

    first._steps = stopped
    with pytest.raises(KeyboardInterrupt):
        first.run()
    trainer(tmp_path / "broken", "save_every=2").run()
    whole, broken = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "broken")


def test_it_learns_to_remove_noise(trainer, tmp_path):
    """The loss on noise falls within some steps; the images are three small photographs."""
    stage = STAGE.replace("steps: 6", "steps: 60, learning_rate: 3.0e-3")
    run = trainer(tmp_path / "run", stage, "mix={gaussian: 1.0}", "ema=0.9")
    damaged = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.45
    flat = torch.full_like(damaged, 0.5)
    before = (run.averaged(damaged) - flat).square().mean()
    run.run()
    after = (run.averaged(damaged) - flat).square().mean()
    assert float(after) < 0.5 * float(before)


def test_blurred_patches_must_get_their_amplitudes_back(folder):
    recipe = load_recipe(
        RECIPES / "deblur.yaml",
        [STAGE, "mix={slight blur: 0.5, camera: 0.5}", "specialist.batch_size=8"],
    )
    source = Synthetic(load_photos([folder]), recipe.degradations)
    pool = Batches(source, recipe.stages["specialist"], 5, torch.device("cpu"))[0]
    batch = pool.split(0, 1)
    losses = SpecialistStage().losses(lambda tiles: tiles, batch)["pixels"]
    error = charbonnier(batch.patches - batch.targets)
    amplitudes = amplitude_loss(batch.patches, batch.targets)
    blurred = batch.present[batch.owner, KINDS.index("blur")] > 0.5
    assert 0 < int(blurred.sum()) < len(blurred)
    torch.testing.assert_close(losses, error + blurred * SHARPNESS_WEIGHT * amplitudes)


def test_the_recipe_is_one_of_noise():
    recipe = load_recipe(RECIPES / "denoise.yaml", [])
    assert recipe.model == "specialist"
    assert {"gaussian", "camera", "jpeg", "identity"} <= recipe.mix.keys()
