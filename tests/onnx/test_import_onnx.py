"""ONNX files of other programs are checked, and get a name and a card."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.sessions import ON_CPU

from varfix.engine.errors import ExitCode, ModelContractError, ModelMissingError
from varfix.onnx.export.import_onnx import StatedCard, import_onnx
from varfix.onnx.files.card import read_card, verify_model
from varfix.onnx.inference.open_model import open_restorer

STATED = StatedCard("MIT", "ten images", tile=64)


@pytest.fixture
def target(tmp_path):
    (tmp_path / "models").mkdir()
    return tmp_path / "models" / "mine.onnx"


def test_a_graph_gets_a_card_with_what_was_measured(shelf, target):
    card = import_onnx(shelf.foreign(), target, STATED)
    assert (card.name, card.licence, card.training) == ("mine", "MIT", "ten images")
    assert (card.tile, card.multiple, card.overlap, card.tiling) == (64, 64, 16, "supported")
    assert verify_model(target) == card


def test_the_file_itself_is_not_changed(shelf, target):
    source = shelf.foreign()
    before = source.read_bytes()
    import_onnx(source, target, STATED)
    assert source.read_bytes() == before


def test_a_graph_of_a_fixed_size_keeps_it(shelf, target):
    card = import_onnx(shelf.foreign((1, 3, 48, 48)), target, STATED)
    assert (card.tile, card.multiple) == (48, 48)


def global_mean(shelf, axes):
    """A graph that subtracts the mean over some axes."""
    nodes = [
        ("ReduceMean", ["input"], ["mean"], {"axes": axes}),
        ("Sub", ["input", "mean"], ["output"], {}),
    ]
    image = ["N", 3, "H", "W"]
    return shelf.save("net.onnx", nodes, [("input", 1, image)], [("output", 1, image)])


def test_a_graph_that_sees_the_whole_tile_is_marked(shelf, target):
    assert import_onnx(global_mean(shelf, [2, 3]), target, STATED).tiling == "discouraged"


def test_a_graph_that_mixes_the_tiles_of_a_batch_is_refused(shelf, target):
    with pytest.raises(ModelContractError, match="restores a batch of tiles differently"):
        import_onnx(global_mean(shelf, [0]), target, STATED)


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (("Resize", ["input", "", "scales"], ["output"], {}), "does not keep the size"),
        (("Log", ["minus"], ["output"], {}), "returns NaN or infinity"),
    ],
)
def test_a_graph_that_does_not_restore_is_refused(shelf, target, node, why):
    nodes = [
        ("Constant", [], ["scales"], {"value_floats": [1.0, 1.0, 2.0, 2.0]}),
        ("Neg", ["input"], ["minus"], {}),
        node,
    ]
    takes, gives = ["N", 3, "H", "W"], ["N", 3, "H2", "W2"]
    path = shelf.save("net.onnx", nodes, [("input", 1, takes)], [("output", 1, gives)])
    with pytest.raises(ModelContractError, match=why) as caught:
        import_onnx(path, target, STATED)
    assert caught.value.exit_code == ExitCode.MODEL


@pytest.fixture
def external(tmp_path):
    """Write a graph that adds a constant kept in another file."""
    shift = numpy_helper.from_array(np.full((1, 3, 1, 1), 0.125, np.float32), "shift")
    image = ["N", 3, "H", "W"]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, image) for n in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "shift"], ["y"])], "g", values[:1], values[1:], [shift]
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(
        helper.make_model(graph, opset_imports=opsets, ir_version=8),
        tmp_path / "net.onnx",
        save_as_external_data=True,
        location="other-name.bin",
        size_threshold=0,
    )
    return tmp_path / "net.onnx"


@pytest.mark.filterwarnings("ignore:.*__array__")
def test_external_weights_come_along(external, target):
    import_onnx(external, target, STATED)
    (external.parent / "other-name.bin").unlink()
    tiles = np.full((1, 64, 64, 3), 0.5, np.float32)
    restorer = open_restorer(str(target), ON_CPU)
    assert np.allclose(restorer.restore(tiles, None).pixels, 0.625)


def test_missing_external_weights_are_an_error(external, target):
    (external.parent / "other-name.bin").unlink()
    with pytest.raises(ModelContractError, match="external weights cannot be read"):
        import_onnx(external, target, STATED)


def test_a_model_of_varfix_keeps_its_card_and_its_other_files(shelf, target):
    source = shelf.pair()
    card = import_onnx(source, target, STATED)
    assert card.name == "mine"
    assert (card.guidance, card.licence) == ("image", "CC0-1.0")
    assert verify_model(target) == card
    assert read_card(source).name == "hand-made"


def test_text_and_missing_files_are_refused(tmp_path, target):
    (tmp_path / "notes.onnx").write_text("some notes\n")
    with pytest.raises(ModelContractError):
        import_onnx(tmp_path / "notes.onnx", target, STATED)
    with pytest.raises(ModelMissingError):
        import_onnx(tmp_path / "gone.onnx", target, STATED)
