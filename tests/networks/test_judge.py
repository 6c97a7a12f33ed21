"""The judge: within its cost, blind to what does not matter, started from ImageNet's weights."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from varfix.engine.errors import ModelContractError
from varfix.engine.networks.layers.mobilenet import NORM_FLOOR, Trunk, load_mobilenet
from varfix.engine.networks.varformer_s.degradation_head import KINDS
from varfix.engine.networks.varformer_s.judge import (
    CELLS,
    CROP,
    GRID,
    PLACES,
    SIDE,
    Judge,
    averaging,
    own_crops,
    stretching,
)
from varfix.engine.restoration import prior_input


@pytest.fixture(scope="module")
def judge():
    torch.manual_seed(0)
    return Judge().eval()


def inputs(count=1, seed=0):
    rng = torch.Generator().manual_seed(seed)
    thumbnail = torch.rand(count, 3, SIDE, SIDE, generator=rng)
    return thumbnail, torch.rand(count, len(PLACES), 3, CROP, CROP, generator=rng)


def test_it_stays_within_four_million_weights_and_1_5_gigaflop(judge):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        judge.grid(judge.look(*inputs()), torch.ones(1, len(KINDS)))
    assert counter.get_total_flops() < 1.5e9
    assert sum(weight.numel() for weight in judge.parameters()) < 4e6


def test_an_untrained_judge_changes_no_tone(judge):
    grid = judge.grid(judge.look(*inputs(2)), torch.ones(2, len(KINDS)))
    assert grid.shape == (2, 96, GRID, GRID)
    assert not grid.any()


def test_it_judges_each_image_by_itself_and_crops_in_any_order(judge):
    thumbnail, crops = inputs(3)
    with torch.no_grad():
        together = judge.look(thumbnail, crops)
        alone = judge.look(thumbnail[1:2], crops[1:2].flip(1))
    torch.testing.assert_close(together.logits[1:2], alone.logits, atol=1e-5, rtol=1e-4)
    assert together.strength.min() >= 0.0
    assert together.strength.max() <= 1.0


def test_fine_grain_that_a_thumbnail_loses_reaches_it_through_the_crops(judge):
    thumbnail, crops = inputs()
    with torch.no_grad():
        calm = judge.look(thumbnail, torch.full_like(crops, 0.5)).logits
        grainy = judge.look(thumbnail, crops).logits
    assert (calm - grainy).abs().max() > 1e-4


def test_calibration_acts_on_the_probability_and_not_on_the_order(judge):
    seen = judge.look(*inputs(4))
    before = judge.probability(seen)
    judge.slope.fill_(2.0)
    judge.offset.fill_(-1.0)
    after = judge.probability(seen)
    judge.slope.fill_(1.0)
    judge.offset.fill_(0.0)
    torch.testing.assert_close(after, (2.0 * seen.logits - 1.0).sigmoid())
    assert (before.argsort(0) == after.argsort(0)).all()


def test_shrinking_and_stretching_keep_what_is_even():
    shrink = averaging(256, SIDE)
    torch.testing.assert_close(shrink.sum(1), torch.ones(SIDE))
    torch.testing.assert_close(shrink.sum(0), torch.full((256,), SIDE / 256))
    stretch = stretching(CELLS, GRID)
    torch.testing.assert_close(stretch.sum(1), torch.ones(GRID))
    slope = stretch @ torch.arange(CELLS).float()
    assert (slope.diff() >= 0.0).all()
    assert slope[GRID // 2 - 1] + slope[GRID // 2] == pytest.approx(CELLS - 1)


def test_network_and_runtime_cut_the_same_crops():
    image = torch.rand(1, 3, 301, 222)
    theirs = prior_input.native_crops(image[0].permute(1, 2, 0).numpy())
    ours = own_crops(image)[0].permute(0, 2, 3, 1)
    torch.testing.assert_close(ours, torch.from_numpy(theirs))
    assert prior_input.CROP == CROP
    assert prior_input.PLACES == PLACES


def public_weights():
    """Weights as torchvision writes them: normalization apart from its convolution."""
    held = {}
    for name, module in Trunk().named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        parent, place = name.rsplit(".", 1)
        norm = f"{parent}.{int(place) + 1}"
        channels = module.out_channels
        held[f"{name}.weight"] = 0.1 * torch.randn_like(module.weight)
        held[f"{norm}.weight"] = torch.rand(channels) + 0.5
        held[f"{norm}.bias"] = torch.randn(channels)
        held[f"{norm}.running_mean"] = torch.randn(channels)
        held[f"{norm}.running_var"] = torch.rand(channels) + 0.1
    return held


def test_imagenet_weights_take_their_normalization_into_the_convolutions():
    torch.manual_seed(1)
    held = public_weights()
    trunk = load_mobilenet(held)
    first = trunk.features[0][0]
    x = torch.rand(1, 3, 8, 8)
    plain = nn.functional.conv2d(x, held["features.0.0.weight"], stride=2, padding=1)
    norm = nn.BatchNorm2d(32, eps=NORM_FLOOR).eval()
    norm.load_state_dict(
        {
            key: held[f"features.0.1.{key}"]
            for key in ("weight", "bias", "running_mean", "running_var")
        },
        strict=False,
    )
    torch.testing.assert_close(first(x), norm(plain), atol=1e-5, rtol=1e-4)


def test_other_weights_are_refused():
    with pytest.raises(ModelContractError, match="not a MobileNetV2"):
        load_mobilenet({"features.0.0.weight": torch.zeros(1)})
