"""The degradation head: statistics of cells, and scores of degradations."""

import pytest
import torch

from varfix.engine.networks.varformer_s.degradation_head import (
    KINDS,
    STATISTICS,
    DegradationHead,
    cell_statistics,
)
from varfix.engine.train.data.batches import present_kinds
from varfix.engine.train.degradations.mix import DEGRADATIONS
from varfix.engine.train.stages.varformer_s import degradation_loss

RIGHT, BELOW, FALLING, RISING, TINT, ACROSS, DOWN = range(13, 20)


def test_a_flat_image_has_the_statistics_of_its_color():
    color = torch.tensor([0.2, 0.5, 0.8])
    found = cell_statistics(color.reshape(1, 3, 1, 1).expand(1, 3, 256, 256))
    assert found.shape == (1, STATISTICS, 16, 16)
    for part in (found[0, :3], found[0, 3:6], found[0, 6:9]):
        torch.testing.assert_close(part, color.reshape(3, 1, 1).expand(3, 16, 16))
    assert found[0, 9:12].max() < 0.002
    torch.testing.assert_close(found[0, 12], torch.full((16, 16), 0.2))
    assert found[0, 13:20].abs().max() < 1e-5


def test_the_logarithmic_scale_separates_dark_values():
    scaled = [cell_statistics(torch.full((1, 3, 256, 256), x))[0, 20:] for x in (0.0, 0.05, 0.1, 1)]
    black, dim, dark, white = (found[:3].mean() for found in scaled)
    assert black == pytest.approx(0.0, abs=1e-6)
    assert white == pytest.approx(1.0, abs=1e-6)
    assert dark - dim > 0.1


@pytest.mark.parametrize(
    ("shift", "least", "greatest"), [((0, 1), BELOW, RIGHT), ((1, 0), RIGHT, BELOW)]
)
def test_streaks_differ_across_and_not_along(shift, least, greatest):
    rows, columns = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    stripes = ((rows * shift[0] + columns * shift[1]) % 4 < 2).float().expand(1, 3, 256, 256)
    found = cell_statistics(stripes)[0].mean((1, 2))
    assert found[least] < 1e-4
    assert found[greatest] > 1.0


def test_only_colored_noise_has_differences_in_color():
    rng = torch.Generator().manual_seed(0)
    gray = 0.5 + 0.1 * torch.randn(1, 1, 256, 256, generator=rng).expand(1, 3, 256, 256)
    color = 0.5 + 0.1 * torch.randn(1, 3, 256, 256, generator=rng)
    assert cell_statistics(gray)[0, TINT].max() < 1e-5
    assert cell_statistics(color)[0, TINT].mean() > 1.0


def test_the_scores_do_not_depend_on_the_other_images_of_a_batch():
    torch.manual_seed(0)
    head = DegradationHead(24)
    features, statistics = torch.randn(3, 24, 16, 16), torch.rand(3, STATISTICS, 16, 16)
    together = head(features, statistics)
    alone = torch.cat([head(features[i : i + 1], statistics[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    assert together.shape == (3, len(KINDS))


def test_every_degradation_names_its_kinds():
    present = present_kinds(list(DEGRADATIONS))
    by_name = dict(zip(DEGRADATIONS, present.tolist(), strict=True))
    assert not any(by_name["identity"])
    assert all(sum(by_name[name]) == 1 for name in ("gaussian", "rain", "haze", "blur", "snow"))
    assert all(sum(row) == 2 for name, row in by_name.items() if "+" in name)


def test_user_pairs_do_not_train_the_scores():
    logits = torch.zeros(2, len(KINDS), requires_grad=True)
    degradation_loss(logits, present_kinds(["own", "haze"])).backward()
    assert not logits.grad[0].any()
    assert logits.grad[1].all()
