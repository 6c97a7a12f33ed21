"""What a network says of its prior is drawn as it is."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from varfix.engine.restoration.explanation import (
    SIDES,
    Explanation,
    additions,
    bars,
    heat,
    prior_parts,
    region_sheet,
    replaced,
    replacements,
    sheets,
)

HEIGHT, WIDTH, SCALES = 32, 48, len(SIDES)


@pytest.fixture
def explanation():
    rng = np.random.default_rng(0)
    weights = rng.random((2, SCALES)).astype(np.float32)
    image = rng.random((HEIGHT, WIDTH, 3)).astype(np.float32)
    return Explanation(
        image=image,
        levels=("encoder 1", "decoder 1"),
        regions=[rng.random((8, 12)).astype(np.float32), rng.random((4, 6)).astype(np.float32)],
        scales=weights / weights.sum(1, keepdims=True),
        steps=[(f"step {i}", image) for i in range(5)],
    )


@pytest.fixture
def latents():
    """What each scale adds: of the degraded image, and of the predicted one."""
    rng = np.random.default_rng(1)
    return rng.random((2, SCALES, 3, 2, 2)).astype(np.float32)


def test_replacing_all_scales_gives_the_prediction_and_none_the_degraded_image(latents):
    asked, increments = latents
    assert np.allclose(replaced(asked, increments, 0), asked.sum(0))
    assert np.allclose(replaced(asked, increments, SCALES), increments.sum(0))
    step = replaced(asked, increments, 2) - replaced(asked, increments, 1)
    assert np.allclose(step, increments[1] - asked[1], atol=1e-6)


def test_each_number_of_replaced_scales_is_drawn_once(latents):
    drawn = []
    steps = list(replacements(*latents, decode=lambda latent: drawn.append(latent) or latent))
    assert [caption for caption, _ in steps][:2] == ["nothing replaced", "1 replaced, to 1 x 1"]
    assert steps[-1][0] == "10 replaced, to 16 x 16"
    assert len(steps) == len(drawn) == SCALES + 1


def test_a_prior_is_added_part_by_part_until_it_is_whole():
    maps = np.random.default_rng(2).random((26, 2, 2)).astype(np.float32)
    parts = prior_parts(channels=26, kinds=2, latent=2)
    seen = []

    def restore(known):
        seen.append(known.copy())
        return np.full((4, 4, 3), known.mean(), np.float32)

    steps = list(additions(maps, parts, restore))
    assert not seen[0].any()
    assert np.array_equal(seen[-1], maps)
    added = [int(((now != 0) & (before == 0)).sum()) // 4 for before, now in pairwise(seen)]
    assert added == [2, 4] + [2] * SCALES  # evidence, tone, then every scale
    change = 255.0 * abs(float(seen[1].mean() - seen[0].mean()))
    assert steps[1][0] == f"+ degradation: changes {change:.1f} of 255"


def test_every_sheet_is_drawn_and_kinds_only_where_known(explanation):
    drawn = sheets(explanation)
    assert set(drawn) == {"regions.png", "scales.png", "steps.png"}
    assert all(image.mode == "RGB" for image in drawn.values())
    with_kinds = sheets(replace(explanation, kinds={"rain": 0.9, "haze": 0.1}))
    assert with_kinds.keys() - drawn.keys() == {"kinds.png"}


def test_heat_is_brighter_where_the_prior_counts_more():
    image = np.full((HEIGHT, WIDTH, 3), 0.5, np.float32)
    region = np.linspace(0.0, 1.0, 8, dtype=np.float32)[None].repeat(8, 0)
    drawn = heat(image, region).sum(2, dtype=int)
    assert (np.diff(drawn[:, ::8].mean(0)) > 0).all()


def test_the_image_itself_is_first(explanation):
    sheet = np.asarray(region_sheet(explanation))
    first = sheet[12 + 26 : 12 + 26 + HEIGHT, 12 : 12 + WIDTH]
    assert np.abs(first / 255.0 - explanation.image).max() < 0.003


def test_bars_are_as_high_as_their_weights():
    drawn = bars(np.array([0.25, 0.5, 0.125, 0.125], np.float32), (1, 2, 3, 4), 0.5)
    blue = (drawn == (47, 110, 178)).all(2)
    heights = [blue[:, 80 * i : 80 * (i + 1)].any(1).sum() for i in range(4)]
    assert heights[1] == pytest.approx(2 * heights[0], abs=2)
    assert heights[0] == pytest.approx(2 * heights[2], abs=2)
    assert heights[1] > 150
