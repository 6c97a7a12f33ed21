"""Batches of the judge, and that it learns from them."""

import numpy as np
import pytest
import torch

from varfix.engine.errors import NothingToDoError
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.judge import CROP, PLACES, SIDE
from varfix.engine.networks.varformer_s.model import build_varformer_s
from varfix.engine.train.data.photos import Photos
from varfix.engine.train.data.source import Synthetic
from varfix.engine.train.degradations.mix import Mix
from varfix.engine.train.recipes.recipe import StageRecipe
from varfix.engine.train.stages.judge import (
    JudgeBatches,
    JudgeStage,
    judge_batches,
    known_mean,
    toned_difference,
)

RECIPE = StageRecipe(steps=6, batch_size=2, image_sizes=(128,))
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(40, 0).repeat(40, 1)
    source = Synthetic(Photos([coarse]), Mix({"lowlight": 1.0}))
    return judge_batches(source, RECIPE, 3, CPU)


def test_a_batch_is_the_same_for_the_same_number(batches):
    again = JudgeBatches(batches.scenes, {"lowlight": 1.0}, RECIPE, 3)
    for name, value in vars(batches[4]).items():
        torch.testing.assert_close(value, getattr(again[4], name))
    assert not torch.equal(batches[4].thumbnail, batches[2].thumbnail)


def test_examples_come_twice_the_second_time_mirrored(batches):
    first, second = batches[0], batches[1]
    torch.testing.assert_close(first.thumbnail.flip(3), second.thumbnail, atol=1e-6, rtol=0)
    torch.testing.assert_close(first.target.flip(3), second.target, atol=1e-6, rtol=0)
    torch.testing.assert_close(first.present, second.present)


def test_a_batch_has_the_shapes_that_the_judge_wants(batches):
    batch = batches[0].to(CPU)
    assert batch.thumbnail.shape == (2, 3, SIDE, SIDE)
    assert batch.target.shape == (2, 3, SIDE // 2, SIDE // 2)
    assert batch.crops.shape == (2, len(PLACES), 3, CROP, CROP)
    dark = KINDS.index("lowlight")
    assert (batch.belief[:, dark] >= 0.7).all()
    assert batch.strength.max() <= 1.0


def test_it_learns_only_from_photographs():
    class Own:
        def draw(self, count, side, rng):
            raise AssertionError

        def mixed(self, weights):
            return self

    with pytest.raises(NothingToDoError, match="pairs"):
        judge_batches(Own(), RECIPE, 0, CPU)


def test_the_identity_grid_differs_by_what_was_done_and_the_right_one_by_nothing():
    thumbnail = torch.full((1, 3, SIDE, SIDE), 0.25)
    target = torch.full((1, 3, SIDE // 2, SIDE // 2), 0.5)
    grid = torch.zeros(1, 96, 16, 16)
    still = toned_difference(thumbnail, grid, target)
    assert float(still) == pytest.approx(0.25 * 1.5, abs=0.01)
    grid.unflatten(1, (8, 12))[:, :, [3, 7, 11]] = 0.25
    assert float(toned_difference(thumbnail, grid, target)) < 0.01


def test_what_nobody_knows_teaches_nothing():
    values = torch.tensor([[1.0, 5.0], [3.0, 7.0]])
    present = torch.tensor([[0.0, -1.0], [1.0, -1.0]])
    assert float(known_mean(values, present)) == 2.0
    assert float(known_mean(values, -torch.ones(2, 2))) == 0.0


def test_a_few_steps_on_one_batch_make_all_of_it_better(batches):
    torch.manual_seed(0)
    model, stage, batch = build_varformer_s(), JudgeStage(), batches[0]
    trained = stage.parameters(model)
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    totals = []
    for _ in range(8):
        losses = stage.losses(model, batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        totals.append({name: loss.item() for name, loss in losses.items()})
    assert totals[-1]["tone"] < totals[0]["tone"]
    assert totals[-1]["found"] < totals[0]["found"]
    assert all(weight.grad is not None for weight in trained)
