"""What a network says of its prior is drawn as it is."""

import numpy as np
import pytest

from varfix.engine.explain import Explanation, bars, heat, region_sheet, replaced, sheets

SIDE, SCALES = 32, 4


@pytest.fixture
def explanation():
    rng = np.random.default_rng(0)
    weights = rng.random((2, SCALES)).astype(np.float32)
    return Explanation(
        picture=rng.random((SIDE, SIDE, 3)).astype(np.float32),
        levels=("encoder 1", "decoder 1"),
        regions=rng.random((2, 8, 8)).astype(np.float32),
        scales=weights / weights.sum(1, keepdims=True),
        asked=rng.random((SCALES, 3, 2, 2)).astype(np.float32),
        increments=rng.random((SCALES, 3, 2, 2)).astype(np.float32),
        sides=(1, 2, 3, 4),
    )


def test_replacing_all_scales_gives_the_prediction_and_none_the_degraded_picture(explanation):
    assert np.allclose(replaced(explanation, 0), explanation.asked.sum(0))
    assert np.allclose(replaced(explanation, SCALES), explanation.increments.sum(0))
    step = replaced(explanation, 2) - replaced(explanation, 1)
    assert np.allclose(step, explanation.increments[1] - explanation.asked[1], atol=1e-6)


def test_every_sheet_is_drawn_and_each_number_of_scales_once(explanation):
    latents = []

    def decode(latent):
        latents.append(latent)
        return np.full((SIDE, SIDE, 3), 0.5, np.float32)

    drawn = sheets(explanation, decode)
    assert set(drawn) == {"regions.png", "scales.png", "replaced.png"}
    assert len(latents) == SCALES + 1
    assert all(image.mode == "RGB" for image in drawn.values())


def test_heat_is_brighter_where_the_prior_counts_more():
    picture = np.full((SIDE, SIDE, 3), 0.5, np.float32)
    region = np.linspace(0.0, 1.0, 8, dtype=np.float32)[None].repeat(8, 0)
    drawn = heat(picture, region).sum(2, dtype=int)
    assert (np.diff(drawn[:, ::8].mean(0)) > 0).all()


def test_the_picture_itself_stands_first(explanation):
    sheet = np.asarray(region_sheet(explanation))
    first = sheet[12 + 26 : 12 + 26 + SIDE, 12 : 12 + SIDE]
    assert np.abs(first / 255.0 - explanation.picture).max() < 0.003


def test_bars_are_as_high_as_their_weights():
    drawn = bars(np.array([0.25, 0.5, 0.125, 0.125], np.float32), (1, 2, 3, 4), 0.5)
    blue = (drawn == (47, 110, 178)).all(2)
    heights = [blue[:, 80 * i : 80 * (i + 1)].any(1).sum() for i in range(4)]
    assert heights[1] == pytest.approx(2 * heights[0], abs=2)
    assert heights[0] == pytest.approx(2 * heights[2], abs=2)
    assert heights[1] > 150
