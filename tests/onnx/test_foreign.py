"""Files that are no models are refused by name; graphs of other programs run."""

import numpy as np
import pytest
from support.sessions import ON_CPU, noise, text_of

from varfix.engine.errors import ExitCode, ModelContractError
from varfix.engine.restoration.prior_input import PriorInput
from varfix.onnx.inference.open_model import open_restorer


def test_a_model_of_tokens_is_refused_by_what_it_takes(shelf):
    path = shelf.foreign(("N", 680), element=7, names=("tokens", "logits"))
    with pytest.raises(ModelContractError) as caught:
        open_restorer(str(path), ON_CPU)
    assert text_of(caught.value) == (
        'net.onnx: expected one image input [N,3,H,W], found "tokens" int64 [N,680]; '
        "export it with varfix export-onnx"
    )
    assert caught.value.exit_code == ExitCode.MODEL


@pytest.mark.parametrize(
    ("shape", "element"),
    [
        (("N", "H", "W", 3), 1),  # channels last would be read as columns of color
        (("N", 1, "H", "W"), 1),
        (("N", 3, "H", "W"), 10),  # float16
        (("N", 3, "H", "W"), 2),  # uint8
        ((4, 3, 64, 64), 1),
        (("N", 3, 64, 128), 1),
    ],
)
def test_other_images_than_varfix_gives_are_refused(shelf, shape, element):
    with pytest.raises(ModelContractError, match=r"net\.onnx: expected .*, found \"input\""):
        open_restorer(str(shelf.foreign(shape, element)), ON_CPU)


def test_two_inputs_are_refused_by_name(shelf):
    image = ["N", 3, "H", "W"]
    path = shelf.save(
        "net.onnx",
        [("Add", ["a", "b"], ["c"], {})],
        [("a", 1, image), ("b", 1, image)],
        [("c", 1, image)],
    )
    with pytest.raises(ModelContractError, match=r'found "a" float32 \[N,3,H,W\], "b" float32'):
        open_restorer(str(path), ON_CPU)


@pytest.mark.parametrize("content", ["some notes\n", ""])
def test_a_text_file_is_refused(tmp_path, content):
    path = tmp_path / "notes.onnx"
    path.write_text(content)
    with pytest.raises(ModelContractError, match=r"notes\.onnx: ") as caught:
        open_restorer(str(path), ON_CPU)
    assert caught.value.exit_code == ExitCode.MODEL


def test_a_truncated_file_is_refused(shelf):
    path = shelf.restore()
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ModelContractError, match=r"hand-made\.onnx: not a complete ONNX file"):
        open_restorer(str(path), ON_CPU)


def test_a_graph_that_the_runtime_cannot_run_is_refused(shelf):
    path = shelf.restore(nodes=[("NoSuchOperator", ["tile"], ["restored"], {})])
    with pytest.raises(ModelContractError, match=r"ONNX Runtime cannot run it .*NoSuchOperator"):
        open_restorer(str(path), ON_CPU)


def test_a_card_over_the_wrong_graph_is_refused(shelf):
    path = shelf.restore(card=shelf.card(guidance="image", thumbnail=256, prior_channels=3))
    with pytest.raises(ModelContractError, match=r'\[N,3,H,W\] and "prior", found "tile" float32'):
        open_restorer(str(path), ON_CPU)


@pytest.mark.parametrize("declared", [["batch", 3, 128, 128], ["batch", 3, "h2", "w2"]])
def test_a_model_that_enlarges_is_refused_before_or_at_the_first_tile(shelf, declared):
    nodes = [
        ("Concat", ["tile", "tile"], ["tall"], {"axis": 2}),
        ("Concat", ["tall", "tall"], ["restored"], {"axis": 3}),
    ]
    path = shelf.restore(nodes=nodes, gives=declared)
    with pytest.raises(ModelContractError, match="returns 128 px for a tile of 64 px"):
        open_restorer(str(path), ON_CPU).restore(noise(1), None)


# Graphs from elsewhere


@pytest.mark.parametrize(
    ("shape", "tile"),
    [
        (("N", 3, "H", "W"), 512),
        ((1, 3, "H", "W"), 512),
        (("N", 3, 48, 48), 48),
        ((None, 3, None, None), 512),
        (("N", "C", "H", "W"), 512),
    ],
)
def test_a_graph_without_card_runs_under_its_own_names(shelf, shape, tile):
    restorer = open_restorer(str(shelf.foreign(shape)), ON_CPU)
    tiles = noise(2, tile)
    assert np.array_equal(restorer.restore(tiles, None).pixels, tiles)
    assert restorer.card.name == "net"
    assert restorer.card.tile == tile
    assert restorer.card.guidance == "none"
    assert len(restorer.card.sha256) == 64
    assert restorer.prior(PriorInput(noise(1, 256)[0], "auto")) is None
