"""Losses, their balance, the fitted tone grid, and the optimizer."""

import pytest
import torch

from varfix.engine.train.balance import FLOOR, Balance
from varfix.engine.train.optimizer import Optimizer, update_averages
from varfix.engine.train.stages.losses import amplitude_loss, reconstruction
from varfix.engine.train.stages.tone_fit import fit_grid
from varfix.engine.train.stages.varformer_s import tone_thumbnails


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(3)


@pytest.fixture
def smooth(rng):
    """(2, 3, 256, 256) in [0.1, 0.9]."""
    seeds = torch.rand(2, 3, 6, 6, generator=rng)
    return 0.1 + 0.8 * torch.nn.functional.interpolate(seeds, size=(256, 256), mode="bilinear")


def test_the_loss_of_one_image_does_not_depend_on_the_others(rng):
    restored, target = torch.rand(2, 3, 3, 64, 64, generator=rng)
    together = reconstruction(restored, target)
    alone = torch.cat([reconstruction(restored[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_a_blurred_image_lacks_amplitudes_but_a_shifted_image_does_not(rng):
    sharp = torch.rand(2, 3, 64, 64, generator=rng)
    soft = torch.nn.functional.avg_pool2d(sharp, 5, stride=1, padding=2)
    assert (amplitude_loss(sharp.roll(3, 2), sharp) < 1e-5).all()
    assert (amplitude_loss(soft, sharp) > 0.05).all()


def test_the_weight_of_a_kind_is_the_inverse_of_its_mean_loss():
    sizes = torch.tensor([0.2, 0.02, 1e-4])
    balance = Balance(3)
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.05)
    kinds = torch.arange(3).repeat(4)
    for _ in range(600):
        optimizer.zero_grad()
        balance(sizes[kinds], kinds).backward()
        optimizer.step()
    losses = sizes[kinds].requires_grad_()
    balance(losses, kinds).backward()
    weights = losses.grad[:3]
    assert weights[1] / weights[0] == pytest.approx(10.0, rel=0.1)
    assert weights[2] / weights[1] < 1.1 * 0.02 / FLOOR  # a kind without error does not dominate


@pytest.mark.parametrize("change", [lambda x: 0.4 * x + 0.5, lambda x: 0.3 * x**1.6])
def test_a_fitted_grid_inverts_haze_and_darkness(smooth, change):
    damaged = change(smooth)
    toned = tone_thumbnails(damaged, fit_grid(damaged, smooth))
    before, after = (((each - smooth) ** 2).mean() for each in (damaged, toned))
    assert after < before / 20.0, before / after


def test_the_grid_for_equal_images_is_the_identity(smooth):
    assert fit_grid(smooth, smooth).abs().max() < 1e-4


def test_steps_with_bad_gradients_are_skipped_and_counted():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = Optimizer([weight], [], clip=1.0, skip=5.0)
    found = []
    for gradient in (1.0, float("nan"), 100.0, 1.0):
        before = weight.detach().clone()
        weight.grad = torch.full((3,), gradient)
        facts = optimizer.step(0.1)
        found.append((float(facts["left out"]), float(optimizer.left_out)))
        assert torch.equal(weight.detach(), before) == (found[-1][0] == 1.0)
    assert found == [(0.0, 0.0), (1.0, 1.0), (1.0, 2.0), (0.0, 0.0)]


def test_averages_do_not_change_after_skipped_steps():
    averages, weights = [torch.zeros(2)], [torch.ones(2)]
    update_averages(averages, weights, 0.25, torch.tensor(0.0))
    assert averages[0].tolist() == [0.25, 0.25]
    update_averages(averages, weights, 0.25, torch.tensor(1.0))
    assert averages[0].tolist() == [0.25, 0.25]
