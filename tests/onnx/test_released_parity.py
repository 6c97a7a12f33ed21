"""The exported VarFormer at full size computes the golden cases, stage by stage.

About 5 GB of memory and as much on disk; minutes on two cores.
"""

import numpy as np
import onnx
import pytest
import torch
from support.released_networks import (
    choices,
    named_values,
    print_figures,
    probed,
    run_graph,
    token_feeds,
)
from support.varformer_parity import (
    CASES,
    CUTS,
    MARGINS,
    NOT_COMPUTED,
    Comparison,
    forced_feeds,
    golden_case,
    inexcusable,
    released_state,
    tolerance,
)

from varfix.engine.networks.checkpoints.load import load_varformer
from varfix.engine.networks.layers.quantizer import SCALES
from varfix.onnx.export.architectures import CardFields, released_varformer
from varfix.onnx.export.released import export_released
from varfix.onnx.files.card import read_card
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

pytestmark = pytest.mark.slow

UNNAMED = {"vqenc/conv_in"}
"""A stage that the network does not tell of; the next one would be wrong too."""

COMPARED = {"out", "quant_fhat"}
"""What the file returns as `restored`, and scale by scale as `asked`."""

DOUBTFUL = 1e-3
"""A token of the degraded image less certain than this may come out differently."""

TWICE = {"adapter/blk3", "adapter_out", "maindec/L0/upsample", "maindec/L0/blocks_out"}
"""Stages that are one result under two names, of which a file keeps one."""


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"case{case}")
def golden(request):
    return golden_case(request.param)


@pytest.fixture(scope="module")
def path(golden, tmp_path_factory):
    """The exported file of the case's weights; exporting compares it with the network."""
    network = load_varformer(released_state(int(golden["case_seed"])), depth=16)
    target = tmp_path_factory.mktemp("full") / "varformer-d16.onnx"
    export_released(released_varformer(network, "varformer-d16", CardFields()), target)
    return target


def test_every_stage_of_the_file_is_reproduced_with_the_golden_tokens(golden, path):
    seen = Comparison(golden)
    stages = [n for n in golden["stat_names"] if n not in NOT_COMPUTED | COMPARED] + ["var_input"]
    stages += [n for n in golden.files if n.startswith("var/") and n not in stages]
    names = named_values(path, stages)
    assert set(stages) - set(names) <= TWICE | UNNAMED
    feeds = forced_feeds((golden["input"] + 1.0) / 2.0, golden["pred_tokens"])
    feeds |= token_feeds(golden["quant_tokens"], SCALES, "read")
    results = run_graph(
        probed(path, names, SCALES, read=SCALES), [*names, "increments", "asked", "restored"], feeds
    )
    seen.compare("S_v", results.pop("increments"), golden["S_v"])
    seen.compare("quant_fhat", results.pop("asked").sum(1), golden["quant_fhat"])
    seen.compare("out", results.pop("restored"), golden["out"])
    for name, value in results.items():
        seen(name, torch.from_numpy(value))
    print_figures(f"file, case {golden['case_seed']}, golden tokens", seen.by_stage())
    assert seen.too_large() == {}


def test_free_running_the_file_predicts_the_same_tokens_and_image(golden, path):
    read = choices(onnx.load(path, load_external_data=False).graph, "ArgMin")
    session = start(probed(path, read), SessionPlan(CPU))
    feeds = {"tile": (golden["input"] + 1.0) / 2.0}
    restored, tokens, *read_tokens = session.run(["restored", "tokens", *read], feeds)
    ours = np.concatenate(read_tokens, axis=1)
    assert inexcusable(ours, golden["quant_tokens"], golden["quant_margin"], DOUBTFUL) == 0
    if not np.array_equal(ours, golden["quant_tokens"]):
        return  # an excusable difference: what follows from it is another image
    parts = (
        np.split(x, CUTS, axis=1) for x in (tokens, golden["pred_tokens"], golden["pred_margin"])
    )
    for ours, theirs, margin, allowed in zip(*parts, MARGINS, strict=True):
        assert inexcusable(ours, theirs, margin, allowed) == 0
        if not np.array_equal(ours, theirs):
            return  # an excusable difference: what follows from it is another image
    assert np.abs(restored - golden["out"]).max() < tolerance("out")


def test_the_card_has_the_agreement_of_fp16(path):
    card = read_card(path)
    assert card.fp16 in ("ok", "unsafe")
    assert "of tokens equal" in card.agreement
