"""VarFormer computes the released network's function, stage by stage (engine/networks/README.md).

The synthetic transformer amplifies rounding from scale to scale, hence two kinds of run: with the
golden tokens forced after every scale, and free.
"""

import numpy as np
import pytest
import torch
from support.released_networks import print_figures
from support.varformer_parity import (
    CASES,
    CUTS,
    MARGINS,
    NOT_COMPUTED,
    Comparison,
    golden_case,
    inexcusable,
    released_state,
    tolerance,
)

from varfix.engine.networks.checkpoints.load import load_varformer
from varfix.engine.networks.layers.quantizer import SCALES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"case{case}")
def golden(request):
    return golden_case(request.param)


@pytest.fixture(scope="module")
def network(golden):
    return load_varformer({"params_ema": released_state(int(golden["case_seed"]))}, depth=16)


@torch.no_grad()
def forced_run(network, golden):
    """Every stage, given the golden tokens."""
    seen, image = Comparison(golden), torch.from_numpy(golden["input"])
    tokens = torch.from_numpy(golden["pred_tokens"].astype(np.int64))
    seen("vqenc/conv_in", network.vqvae.encoder.conv_in(image))
    guidance = network.prior(image, seen, tokens)
    seen.compare("quant_fhat", guidance.adapted.numpy(), golden["quant_fhat"])
    seen.predicted(guidance.prediction)
    seen.compare("out", network.restore_with_prior(image, guidance, seen).numpy(), golden["out"])
    return seen, guidance


def test_every_stage_is_reproduced_with_the_golden_tokens(network, golden):
    seen, guidance = forced_run(network, golden)
    print_figures(f"network, case {golden['case_seed']}, golden tokens", seen.by_stage())
    assert set(golden["stat_names"]) - set(seen.worst) <= NOT_COMPUTED
    certain = golden["quant_margin"] >= 1e-3
    assert np.array_equal(guidance.tokens.numpy()[certain], golden["quant_tokens"][certain])
    assert seen.too_large() == {}
    assert seen.root_mean_square["out"] < 1e-5
    margins = np.repeat(MARGINS, [p * p for p in SCALES])[None]
    ours = guidance.prediction.tokens.numpy()
    assert inexcusable(ours, golden["pred_tokens"], golden["pred_margin"], margins) == 0


@torch.no_grad()
def test_free_running_it_predicts_the_same_tokens_and_image(network, golden):
    image = torch.from_numpy(golden["input"])
    guidance = network.prior(image)
    ours = np.split(guidance.prediction.tokens.numpy(), CUTS, axis=1)
    theirs = np.split(golden["pred_tokens"], CUTS, axis=1)
    margins = np.split(golden["pred_margin"], CUTS, axis=1)
    for mine, golden_tokens, margin, allowed in zip(ours, theirs, margins, MARGINS, strict=True):
        assert inexcusable(mine, golden_tokens, margin, allowed) == 0
        if not np.array_equal(mine, golden_tokens):
            return  # an excusable difference: what follows from it is another image
    restored = network.restore_with_prior(image, guidance)
    assert np.abs(restored.numpy() - golden["out"]).max() < tolerance("out")
