"""RestoreVAR's exported graph passes the golden cases of the network, stage by stage.

Each case is one traced graph; the largest needs some minutes and GB. With `-s` pytest tells the
worst difference of every stage.
"""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from support.released_networks import probed, run_graph, token_feeds
from support.restorevar_parity import (
    facts,
    fields_of,
    golden_case,
    released_network,
    stage_names,
    stored,
    wrong,
)

from varfix.engine.errors import ConfigError
from varfix.onnx.export.architectures import CardFields, architecture_named, released_restorevar
from varfix.onnx.export.released import export_released, natural_image
from varfix.onnx.export.released_graphs import RestoreVarGraph
from varfix.onnx.export.trace import trace_graph
from varfix.onnx.files.card import verify_model
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

slow = pytest.mark.slow
CASES = [
    pytest.param(3, id="tiny3"),
    pytest.param(4, id="tiny4"),
    pytest.param(2, id="256"),
    pytest.param(1, id="512"),
]


@pytest.fixture(scope="module", params=CASES)
def golden(request):
    return golden_case(request.param)


@pytest.fixture(scope="module")
def graph(golden, tmp_path_factory):
    """The case's graph as it is written on export, but that it returns every stage."""
    network = released_network(golden)
    path = tmp_path_factory.mktemp("graph") / "net.onnx"
    results = ("restored", "tokens", "latent", *stage_names(golden))
    model = trace_graph(RestoreVarGraph(network), natural_image(network.vqvae.side), results)
    ir.save(model, path, external_data="net.data", size_threshold_bytes=4096)
    return path


def run(golden, graph, *, forced, from_latent):
    """Everything that a run of the file comes by, as the kit's fields."""
    names = ["restored", "tokens", "latent", *stage_names(golden)]
    feeds = {"tile": pixels(golden)}
    scales, given = (), {}
    if forced:
        scales = facts(golden)["patch_nums"]
        feeds |= token_feeds(golden["tokens"][None], scales)
    if from_latent:
        feeds["given_latent"] = stored(golden, "cond_latent").numpy()
        given = {"latent": feeds["given_latent"].shape}
    results = run_graph(probed(graph, names, scales, given), names, feeds)
    seen = {name: result[0] for name, result in results.items()}
    assert np.array_equal(seen["tokens"], seen["logits"].argmax(-1))
    return fields_of(golden, seen) | {"cond_latent": seen["latent"]}


def pixels(golden):
    """The case's image as the file takes it."""
    return golden["input_u8"].astype(np.float32).transpose(2, 0, 1)[None] / 255.0


@slow
@pytest.mark.parametrize("from_latent", [True, False], ids=["latent", "picture"])
def test_with_the_golden_tokens_every_stage_of_the_file_is_reproduced(golden, graph, from_latent):
    fields = run(golden, graph, forced=True, from_latent=from_latent)
    assert wrong(golden, fields, "forced", from_latent) == []


@slow
def test_from_the_stored_latent_the_file_writes_the_same_tokens(golden, graph):
    fields = run(golden, graph, forced=False, from_latent=True)
    assert np.array_equal(fields["logits_full"].argmax(-1), golden["tokens"])
    assert wrong(golden, fields, "free", True) == []


@slow
def test_from_the_image_only_uncertain_tokens_may_differ(golden, graph):
    fields = run(golden, graph, forced=False, from_latent=False)
    refused = wrong(golden, fields, "free", False)
    differing = (fields["logits_full"].argmax(-1) != golden["tokens"]).mean()
    assert differing < (0.01 if facts(golden)["config"] == "512" else 1e-9)
    assert "tokens" not in [name for name, _, _ in refused]  # equal up to the first uncertain one
    assert differing > 0.0 or refused == []


def test_the_exported_file_gives_the_golden_image_and_has_a_card(tmp_path):
    golden = golden_case(3)
    network = released_network(golden)
    released = released_restorevar(network, "tiny", CardFields(training="nothing"))
    written = export_released(released, tmp_path / "tiny.onnx")
    assert verify_model(tmp_path / "tiny.onnx") == written
    assert (written.tile, written.multiple, written.guidance) == (64, 64, "tile")
    assert (written.squash, written.training) == ("lanczos", "nothing")
    assert "of tokens equal" in written.agreement
    assert written.fp16 in ("ok", "unsafe")
    session = start(tmp_path / "tiny.onnx", SessionPlan(CPU))
    restored, tokens = session.run(["restored", "tokens"], {"tile": pixels(golden)})
    assert np.array_equal(tokens[0], golden["tokens"])
    np.testing.assert_allclose(
        restored[0, :, ::4, ::4], golden["image_f32_stride4"], atol=5e-5, rtol=0
    )


def test_two_files_with_these_endings_are_taken_for_a_restorevar():
    files = [Path("restorevar.pth"), Path("vae_restorevar.ckpt")]
    assert architecture_named("auto", files) == "restorevar"
    with pytest.raises(ConfigError, match="restorevar: requires 2 file"):
        architecture_named("restorevar", files[:1])
