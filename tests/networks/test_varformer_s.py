"""VarFormer-S has the properties of its design (engine/networks/README.md)."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from varfix.engine.models.card import TASKS
from varfix.engine.networks.layers.quantizer import next_scale_mask, scale_of_token
from varfix.engine.networks.layers.windows import from_windows, to_windows
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.model import build_varformer_s
from varfix.engine.networks.varformer_s.prior import MAP_CHANNELS
from varfix.engine.networks.varformer_s.tone_grid import (
    GRID_CHANNELS,
    SCORE_RANGES,
    apply_tone,
    confident,
    confident_in_task,
    suppress_uncertain,
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
    assert size(exported) < 15e6


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
    kept = suppress_uncertain(grid, thumbnail, torch.ones(2, len(KINDS)))
    assert not kept[0].any()
    torch.testing.assert_close(kept[1], grid[1])


def test_tone_does_not_change_without_confidence_in_a_degradation():
    thumbnail = torch.full((3, 3, 32, 32), 0.5)
    grid = torch.zeros(3, GRID_CHANNELS, 2, 2)
    grid[:, 3::12] = 0.3
    scores = torch.zeros(3, len(KINDS))
    scores[0, KINDS.index("noise")] = 1.0  # noise shifts no tones
    scores[1, KINDS.index("haze")] = sum(SCORE_RANGES["haze"]) / 2  # half way
    scores[2, KINDS.index("lowlight")] = SCORE_RANGES["lowlight"][1]
    kept = suppress_uncertain(grid, thumbnail, confident(scores))
    assert not kept[0].any()
    torch.testing.assert_close(kept[1], 0.5 * grid[1])
    torch.testing.assert_close(kept[2], grid[2])


def test_a_requested_task_needs_a_lower_score_but_not_none():
    assert TASKS[1:] == KINDS
    scores = torch.full((len(TASKS), len(KINDS)), 0.8)
    requested = confident_in_task(scores, torch.arange(len(TASKS)))
    assert not requested[0].any()
    torch.testing.assert_close(requested[1:], torch.eye(len(KINDS)))
    assert not confident_in_task(scores - 0.2, torch.arange(len(TASKS))).any()
    assert confident(scores)[0, KINDS.index("haze")] == 0.0


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
