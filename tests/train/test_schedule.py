"""The learning rate follows its schedule."""

import math

import pytest

from varfix.engine.train.loop import SHIPPED_RECIPE
from varfix.engine.train.recipes.recipe import load_recipe
from varfix.engine.train.schedule import learning_rate


def test_the_learning_rate_rises_then_falls_to_its_last_value():
    stage = load_recipe(SHIPPED_RECIPE).stages["restorer"]
    rates = [learning_rate(stage, step / 3000, step) for step in range(3000)]
    assert max(rates) == pytest.approx(stage.learning_rate, rel=0.02)
    assert rates[0] < 0.05 * stage.learning_rate
    assert rates[-1] == pytest.approx(stage.min_learning_rate, rel=0.1)
    assert all(math.isfinite(rate) for rate in rates)


def test_an_extended_stage_warms_up_its_new_optimizer():
    stage = load_recipe(SHIPPED_RECIPE).stages["restorer"]
    assert learning_rate(stage, 0.5, 0) == pytest.approx(
        learning_rate(stage, 0.5, stage.warmup) / stage.warmup
    )
