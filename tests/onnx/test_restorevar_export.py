"""RestoreVAR's exported graph passes the golden cases of the network, stage by stage."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from restorevar_kit import PARITY, golden_case, module, released_network, stored

from varfix.engine.errors import ConfigError
from varfix.onnx.architectures import Facts, architecture_named, released_restorevar
from varfix.onnx.card import verify_model
from varfix.onnx.released import export_released, natural
from varfix.onnx.restorevar_graph import RestoreVarGraph
from varfix.onnx.trace import traced

slow = pytest.mark.slow
STAGES = ("restored", "tokens", "latent", "logits", "states", "quantized", "refined")
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
    """A file that returns what passes between its parts."""
    network = released_network(golden)
    path = tmp_path_factory.mktemp("graph") / "net.onnx"
    example = natural(network.vqvae.side)
    model = traced(RestoreVarGraph(network), example, STAGES)
    ir.save(model, path, external_data="net.data", size_threshold_bytes=4096)
    return path


def run(path, name, value):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    results = session.run(None, {name: value})
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, (result[0] for result in results), strict=True))


def pixels(golden):
    """The case's picture as the file takes it."""
    return golden["input_u8"].astype(np.float32).transpose(2, 0, 1)[None] / 255.0


def wrong(golden, seen, from_latent):
    """What the kit's own comparison refuses of a free run."""
    outputs = {
        "logits_full": seen["logits"],
        "last_block_sel": seen["states"][golden["sel_tokens"]],
        "f_hat": seen["quantized"],
        "refined": seen["refined"],
        "image": seen["restored"],
    }
    path = PARITY / f"golden_restorevar_case{int(golden['case'])}.npz"
    report = module("check_golden").compare(path, outputs, "free", from_latent)
    return [line for line in report if not line[1]]


@slow
def test_from_the_picture_the_file_gives_the_golden_results(golden, graph):
    seen = run(graph, "tile", pixels(golden))
    differing = (seen["tokens"] != golden["tokens"]).mean()
    assert differing < 0.01
    assert np.array_equal(seen["tokens"], seen["logits"].argmax(-1))
    if differing == 0.0:
        assert wrong(golden, seen, from_latent=False) == []


@slow
def test_from_the_stored_latent_its_later_parts_do_too(golden, graph, tmp_path):
    if graph.with_name("net.data").stat().st_size > 1e9:
        pytest.skip("the whole graph is checked; a cut one of this size would not fit in a message")
    import onnx

    cut = tmp_path / "cut.onnx"
    onnx.utils.extract_model(graph, cut, ["latent"], [name for name in STAGES if name != "latent"])
    seen = run(cut, "latent", stored(golden, "cond_latent").numpy())
    assert np.array_equal(seen["tokens"], golden["tokens"])
    assert wrong(golden, seen, from_latent=True) == []


def test_the_exported_file_gives_the_golden_picture_and_says_what_it_is(tmp_path):
    golden = golden_case(3)
    network = released_network(golden)
    released = released_restorevar(network, "tiny", Facts(training="nothing"))
    written = export_released(released, tmp_path / "tiny.onnx")
    assert verify_model(tmp_path / "tiny.onnx") == written
    assert (written.tile, written.multiple, written.guidance) == (64, 64, "tile")
    assert (written.squash, written.training) == ("lanczos", "nothing")
    assert "of tokens equal" in written.agreement
    assert written.fp16 in ("ok", "unsafe")
    seen = run(tmp_path / "tiny.onnx", "tile", pixels(golden))
    assert np.array_equal(seen["tokens"], golden["tokens"])
    np.testing.assert_allclose(
        seen["restored"][:, ::4, ::4], golden["image_f32_stride4"], atol=5e-5, rtol=0
    )


def test_two_files_with_these_endings_are_taken_for_a_restorevar():
    files = [Path("restorevar.pth"), Path("vae_restorevar.ckpt")]
    assert architecture_named("auto", files) == "restorevar"
    with pytest.raises(ConfigError, match="restorevar is made from 2 file"):
        architecture_named("restorevar", files[:1])
