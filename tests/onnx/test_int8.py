"""The twin in 8-bit integers is near its model, and is never taken for another's."""

import cv2
import numpy as np
import onnx
import pytest

from varfix.engine.errors import ModelContractError, ModelMissingError, NothingToDoError
from varfix.engine.settings.types import ModelSettings, Settings
from varfix.onnx.export import int8
from varfix.onnx.files.card import (
    check_int8_companion,
    int8_path,
    read_card,
    verify_model,
    write_card,
)
from varfix.onnx.files.model_files import find_model
from varfix.onnx.inference.open_model import open_restorer
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

INT8 = Settings(device="cpu", model=ModelSettings(precision="int8"))


@pytest.fixture(scope="module")
def model():
    return find_model("varformer-s").restore


@pytest.fixture(scope="module")
def sample():
    rng = np.random.default_rng(0)
    small = rng.random((8, 8, 3), np.float32)
    tile = cv2.resize(small, (128, 64), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    tile += rng.normal(0, 0.1, tile.shape).astype(np.float32)
    prior = 0.1 * rng.standard_normal((1, read_card_of_model().prior_channels, 4, 8), np.float32)
    return int8.CalibrationSample(
        np.ascontiguousarray(tile.clip(0, 1).transpose(2, 0, 1)[None]), prior
    )


def read_card_of_model():
    return read_card(find_model("varformer-s").restore)


@pytest.fixture(scope="module")
def graph(model, sample):
    graph = onnx.load(model)
    int8.quantize(graph, int8.calibrate(graph, [sample]))
    return graph


def results(graph, sample):
    feeds = {"tile": sample.tile, "prior": sample.prior}
    return start(graph.SerializeToString(), SessionPlan(CPU)).run(["restored"], feeds)[0]


def test_it_computes_nearly_the_same(model, graph, sample):
    exact, near = results(onnx.load(model), sample), results(graph, sample)
    assert 0.0 < np.abs(exact - near).mean() < 0.01
    assert np.abs(exact - sample.tile).mean() > 0.02  # where there is something to compute


def test_the_runtime_fuses_every_block_into_integer_kernels(graph, tmp_path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    blocks = [
        node for node in graph.graph.node if node.op_type == "Conv" and ".wide" in node.input[1]
    ]
    assert kinds.count("QLinearConv") == len(blocks) == 26


def test_weights_leave_room_for_processors_that_add_pairs_in_16_bits(graph):
    whole = [weight for weight in graph.graph.initializer if weight.name.endswith("weight.whole")]
    assert whole
    assert max(np.abs(onnx.numpy_helper.to_array(weight)).max() for weight in whole) == 63


def test_single_precision_of_what_became_integers_is_gone(graph):
    names = {weight.name for weight in graph.graph.initializer}
    assert not any(int8.BLOCKS.fullmatch(name.removesuffix(".half")) for name in names)


def test_a_graph_without_such_blocks_is_refused(shelf):
    graph = onnx.load(shelf.restore())
    with pytest.raises(ModelContractError, match="has none of its blocks"):
        int8.calibrate(graph, [])


@pytest.fixture
def twins(shelf):
    """A pair whose twin in integers is a copy, as far as cards can tell."""
    path = shelf.pair()
    card, graph = read_card(path), onnx.load(path)
    graph.metadata_props.add(key="made-from", value=card.sha256)
    graph.graph.node[1].op_type = "Sub"
    onnx.save(graph, int8_path(path))
    write_card(int8_path(path), card)
    return path


def test_the_int8_variant_runs_if_requested(twins):
    restorer = open_restorer(str(twins), INT8)
    assert restorer.used.precision == "int8"
    tiles, prior = np.full((1, 64, 64, 3), 0.5, np.float32), np.full((1, 3, 4, 4), 0.25, np.float32)
    np.testing.assert_allclose(restorer.restore(tiles, prior).pixels, 0.25)
    assert verify_model(twins).name == "hand-made"


def test_the_int8_variant_does_not_run_unless_requested(twins):
    assert open_restorer(str(twins), Settings(device="cpu")).used.precision == "fp32"


def test_an_int8_variant_of_older_weights_is_rejected_with_a_hint(twins):
    graph = onnx.load(twins)
    graph.graph.doc_string = "other weights"
    onnx.save(graph, twins)
    write_card(twins, read_card(twins))
    with pytest.raises(ModelContractError, match="made from other weights") as caught:
        open_restorer(str(twins), INT8)
    assert "varfix export-onnx --int8" in caught.value.hint
    with pytest.raises(ModelContractError, match="made from other weights"):
        verify_model(twins)


def test_a_model_without_an_int8_variant_is_an_error(shelf):
    with pytest.raises(ModelMissingError, match="int8 variant not found"):
        open_restorer(str(shelf.pair()), INT8)


def test_on_a_gpu_integers_are_left_out_with_a_warning(shelf, on_cuda):
    codes = []
    path = shelf.restore()
    settings = Settings(device="cuda", model=ModelSettings(precision="int8"))
    restorer = open_restorer(str(path), settings, warn=lambda code, text: codes.append(code))
    assert codes == ["int8_on_cpu"]
    assert restorer.used.precision == "fp32"


def test_the_shipped_int8_variant_belongs_to_the_shipped_model():
    found = find_model("varformer-s")
    check_int8_companion(read_card(found.restore), found.int8, found.restore)
    together = sum(path.stat().st_size for path in (found.restore, found.prior, found.int8))
    assert together < 40e6


@pytest.mark.slow
def test_exporting_calibrates_on_images_and_returns_the_difference(tmp_path, monkeypatch):
    found = find_model("varformer-s")
    for path in (found.restore, found.prior):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (12, 16, 3), np.uint8)
    photo = cv2.resize(small, (512, 384), interpolation=cv2.INTER_CUBIC)
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), photo)
    monkeypatch.setattr(int8, "PICTURES", 13)
    model = tmp_path / found.restore.name
    assert 0.0 < int8.export_int8(model, tmp_path / "photos") < 0.01
    verify_model(model)
    (tmp_path / "photos" / "a.png").unlink()
    with pytest.raises(NothingToDoError):
        int8.export_int8(model, tmp_path / "photos")
