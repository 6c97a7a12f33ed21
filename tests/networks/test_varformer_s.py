"""VarFormer-S has the properties of its design (engine/networks/README.md)."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from varfix.engine.models.card import TASKS
from varfix.engine.networks.layers.quantizer import next_scale_mask, scale_of_token
from varfix.engine.networks.layers.windows import from_windows, to_windows
from varfix.engine.networks.varformer_s.decisions import (
    ASKED,
    HEAD_SHARE,
    HEAD_TONE,
    LIKELY,
    MARGIN,
    MOST_OF_HEAD,
    NOT_PLAIN,
    PLAIN,
    POSSIBLE,
    confident,
    confident_in_task,
    considered,
    head_tone,
    joined,
    tell,
    tone_share,
)
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.model import build_varformer_s
from varfix.engine.networks.varformer_s.prior import MAP_CHANNELS
from varfix.engine.networks.varformer_s.tone_grid import (
    GRID_CHANNELS,
    apply_tone,
    tone_certainty,
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_varformer_s().eval()


def flops(function):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops()


def size(parts):
    return sum(p.numel() for part in parts for p in part.parameters())


def test_the_restorer_stays_within_its_cost(network):
    tile, prior = torch.rand(1, 3, 128, 128), torch.rand(1, MAP_CHANNELS, 8, 8)
    assert flops(lambda: network.restorer(tile, prior)) < 0.5e6 * 128 * 128
    assert size([network.restorer]) < 12e6


def test_the_prior_stays_within_its_cost(network):
    prior = network.prior
    assert flops(lambda: prior(torch.rand(1, 3, 256, 256), torch.tensor([0]))) < 15e9
    exported = [prior.encoder, prior.adapter, prior.transformer, prior.tone, prior.vqvae.quantize]
    assert size([*exported, prior.evidence, prior.judge]) < 15e6


def test_an_untrained_network_hardly_changes_the_image(network):
    image = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        restored = network(image, torch.tensor([0]))
    assert (restored - image).abs().mean() < 0.02


def test_a_token_attends_to_its_own_and_coarser_scales_only():
    mask, scale = next_scale_mask(), scale_of_token()
    assert mask[0].sum() == 1
    assert mask[-1].all()
    assert not mask[scale == 3][:, scale == 4].any()


def test_a_grid_of_zeros_is_the_identity_and_a_constant_grid_is_an_affine_map():
    folded = torch.rand(1, 12, 16, 16)
    grid = torch.zeros(1, GRID_CHANNELS, 2, 2)
    torch.testing.assert_close(apply_tone(folded, grid), folded)
    cells = grid.unflatten(1, (8, 12))
    cells[:, :, 3] = 0.25  # red's constant, whatever the brightness
    cells[:, :, 5] = 1.0  # green's share of green
    moved = apply_tone(folded, grid)
    torch.testing.assert_close(moved[:, :4], folded[:, :4] + 0.25)
    torch.testing.assert_close(moved[:, 4:8], folded[:, 4:8] * 2.0)
    torch.testing.assert_close(moved[:, 8:], folded[:, 8:])


def test_a_grid_with_a_small_change_is_suppressed():
    thumbnail = torch.full((2, 3, 32, 32), 0.5)
    grid = torch.zeros(2, GRID_CHANNELS, 2, 2)
    grid[0, 3::12] = 0.01  # red's constant: a mean change of a third of that
    grid[1, 3::12] = 0.3
    certainty = tone_certainty(grid, thumbnail, torch.ones(2, len(KINDS)))
    assert certainty.tolist() == [0.0, 1.0]


def test_tone_does_not_change_without_confidence_in_a_degradation():
    thumbnail = torch.full((3, 3, 32, 32), 0.5)
    grid = torch.zeros(3, GRID_CHANNELS, 2, 2)
    grid[:, 3::12] = 0.3
    evidence = torch.zeros(3, len(KINDS))
    evidence[0, KINDS.index("noise")] = 1.0  # noise shifts no tones
    evidence[1, KINDS.index("haze")] = sum(LIKELY["haze"]) / 2  # between absent and there
    evidence[2, KINDS.index("lowlight")] = LIKELY["lowlight"][1]
    certainty = tone_certainty(grid, thumbnail, confident(evidence))
    torch.testing.assert_close(certainty, torch.tensor([0.0, 0.5, 1.0]))


def told_of(**probabilities):
    row = torch.zeros(1, len(KINDS))
    for kind, probability in probabilities.items():
        row[0, KINDS.index(kind)] = probability
    return row


def test_who_asks_for_a_task_is_believed_unless_the_image_plainly_contradicts():
    assert TASKS[1:] == KINDS
    every = torch.arange(len(TASKS))
    likely = torch.full((len(TASKS), len(KINDS)), max(high for _, high in ASKED.values()))
    unseen = torch.zeros_like(likely)
    asked = confident_in_task(likely, unseen, every)
    assert not asked[0].any()
    torch.testing.assert_close(asked[1:], torch.eye(len(KINDS)))
    assert not confident_in_task(torch.full_like(likely, 0.01), unseen, every).any()
    assert all(ASKED[kind][1] < LIKELY[kind][1] for kind in KINDS)


def test_with_a_task_nothing_else_is_treated(network):
    rng = torch.Generator().manual_seed(4)
    thumbnail = torch.rand(1, 3, 256, 256, generator=rng)
    sure = torch.ones(1, 2, len(KINDS))
    with torch.no_grad():
        found = network.prior(thumbnail, torch.tensor([0]), probabilities=sure)
        asked = network.prior(
            thumbnail, torch.tensor([1 + KINDS.index("rain")]), probabilities=sure
        )
    torch.testing.assert_close(found.scores, torch.ones(1, len(KINDS)))
    torch.testing.assert_close(asked.scores, told_of(rain=1.0))
    assert considered(torch.tensor([0, 1])).tolist() == [[1.0] * 6, [1.0, *[0.0] * 5]]


def test_haze_and_darkness_that_the_head_sees_are_enough_for_who_asks():
    every, possible = torch.arange(1, len(TASKS)), torch.full((len(KINDS), len(KINDS)), POSSIBLE[1])
    asked = confident_in_task(possible, torch.ones_like(possible), every).diagonal()
    seen = [KINDS.index(kind) for kind in HEAD_TONE]
    torch.testing.assert_close(asked[seen], torch.ones(len(seen)))
    doubtful = torch.full_like(possible, 0.01)
    assert not confident_in_task(doubtful, torch.ones_like(doubtful), every).any()


def test_only_plain_rain_is_told_in_full_also_to_who_asks():
    rain = KINDS.index("rain")
    asked = told_of(rain=1.0)
    for probability, wanted in ((0.3, NOT_PLAIN), (PLAIN["rain"][1], 1.0)):
        assert tell(told_of(rain=probability), asked)[0, rain] == pytest.approx(wanted)
    assert tell(told_of(rain=0.9), torch.zeros_like(asked))[0, rain] == pytest.approx(NOT_PLAIN)


def test_plain_noise_asks_for_plainer_darkness():
    dark, enough = KINDS.index("lowlight"), LIKELY["lowlight"][1]
    assert confident(told_of(lowlight=enough))[0, dark] == 1.0
    assert confident(told_of(lowlight=enough, noise=0.95))[0, dark] == 0.0
    assert confident(told_of(lowlight=0.995, noise=0.95))[0, dark] == 1.0


def test_judge_and_head_are_asked_about_each_kind_by_their_shares():
    judged, head = torch.full((1, len(KINDS)), 0.5), torch.full((1, len(KINDS)), 1.0)
    for kind, value in zip(KINDS, joined(judged, head)[0], strict=True):
        expected = torch.tensor(0.5 + 0.5 * HEAD_SHARE[kind]).sigmoid()
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("kind", MARGIN)
def test_neither_is_believed_where_the_other_is_sure_that_it_is_wrong(kind):
    asked, other = told_of(**{kind: 6.0}), told_of(**{kind: -6.0})
    judged, head = (other, asked) if HEAD_SHARE[kind] == 1.0 else (asked, other)
    believed = joined(judged, head)[0, KINDS.index(kind)]
    torch.testing.assert_close(believed, torch.tensor(MARGIN[kind] - 6.0).sigmoid())
    doubted = joined(-judged, -head)[0, KINDS.index(kind)]
    torch.testing.assert_close(doubted, torch.tensor(-6.0).sigmoid())


def test_the_tone_of_the_head_counts_where_it_is_sure_and_always_for_rain():
    sure, unsure = head_tone(torch.full((1, len(KINDS)), 8.0)), head_tone(torch.full((1, 6), -2.0))
    dark, rainy = told_of(lowlight=1.0), told_of(rain=1.0)
    nothing = told_of()
    assert tone_share(sure, dark, nothing) == tone_share(sure, dark, dark) == 1.0
    assert tone_share(unsure, dark, nothing) == 0.0
    assert tone_share(unsure, rainy, nothing) == 1.0
    assert tone_share(unsure, dark + rainy, nothing) == 0.5
    assert tone_share(sure, nothing, nothing) == 0.0  # nothing changes tone


def test_of_darkness_that_the_user_asks_for_the_head_must_be_surer():
    nearly = head_tone(torch.full((1, len(KINDS)), 0.98).logit())
    dark, hazy = told_of(lowlight=1.0), told_of(haze=1.0)
    assert tone_share(nearly, dark, told_of()) > 0.9
    assert tone_share(nearly, dark, dark) == 0.0
    assert tone_share(nearly, hazy, hazy) == pytest.approx(MOST_OF_HEAD["haze"])


def test_what_is_known_of_a_scene_takes_the_place_of_what_an_image_shows(network):
    prior, auto = network.prior, torch.tensor([0])
    rng = torch.Generator().manual_seed(3)
    thumbnail = torch.rand(1, 3, 256, 256, generator=rng)
    unknown = torch.full((1, 2, len(KINDS)), -1.0)
    with torch.no_grad():
        alone = prior(thumbnail, auto)
        same = prior(thumbnail, auto, probabilities=unknown)
        held = unknown.clone()
        held[:, :, KINDS.index("haze")] = 1.0
        hazy = prior(thumbnail, auto, probabilities=held)
    torch.testing.assert_close(same.maps, alone.maps)
    assert hazy.found[0, :2, KINDS.index("haze")].tolist() == [1.0, 1.0]
    others = [i for i, kind in enumerate(KINDS) if kind != "haze"]
    torch.testing.assert_close(hazy.found[:, :2, others], alone.found[:, :2, others])
    assert hazy.scores[0, KINDS.index("haze")] == 1.0


def test_the_restorer_is_told_of_plain_degradations_and_of_the_one_that_was_asked_for():
    little, nothing = told_of(noise=0.15, rain=0.4), told_of()
    assert not tell(little, nothing).any()
    torch.testing.assert_close(tell(little, told_of(noise=1.0)), told_of(noise=1.0))
    assert tell(told_of(rain=0.99), nothing)[0, KINDS.index("rain")] == 1.0


def test_windows_are_joined_at_their_places():
    x = torch.rand(2, 5, 16, 24)
    torch.testing.assert_close(from_windows(to_windows(x, 8), 8, (16, 24)), x)


def test_the_result_of_a_pixel_does_not_depend_on_far_ones(network):
    """Pixels beyond the receptive field have no effect; otherwise tiles would disagree."""
    torch.manual_seed(1)
    for weight in network.restorer.conv_out.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    left = torch.rand(1, 3, 64, 768)
    changed = left.clone()
    changed[..., 640:] = torch.rand(1, 3, 64, 128)
    prior = torch.rand(1, MAP_CHANNELS, 4, 48)
    with torch.no_grad():
        difference = (network.restorer(left, prior)[0] - network.restorer(changed, prior)[0]).abs()
    assert difference[..., :128].max() < 1e-5
    assert difference[..., 640:].max() > 1e-3


def test_the_task_reaches_the_prior(network):
    image = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        unknown, rain = (network.prior(image, torch.tensor([t])).maps for t in (0, 2))
    assert (unknown - rain).abs().max() > 1e-6
