import pytest

from varfix.engine.errors import ModelChecksumError, ModelMissingError
from varfix.engine.models.registry import MODELS, ModelEntry
from varfix.onnx.files.card import read_card, write_card
from varfix.onnx.files.model_files import find_model, model_digest


def test_a_path_names_a_model_and_its_companions(shelf):
    path = shelf.pair()
    found = find_model(str(path))
    assert found.name == "pair"
    assert found.restore == path
    assert found.prior == path.with_name("pair.prior.onnx")
    assert found.fp16 == path.with_name("pair.fp16.onnx")


def test_a_mistyped_name_gets_a_suggestion():
    with pytest.raises(ModelMissingError, match="varformer: no such model or file") as caught:
        find_model("varformer")
    assert 'did you mean "varformer-s"?' in caught.value.hint


def test_an_unknown_name_gets_the_list():
    with pytest.raises(ModelMissingError) as caught:
        find_model("upscale")
    assert "known models: varformer-s" in caught.value.message


def test_a_path_without_file_is_missing(tmp_path):
    with pytest.raises(ModelMissingError, match=r"net\.onnx: model file not found"):
        find_model(str(tmp_path / "net.onnx"))


def test_a_known_model_that_is_not_installed_names_its_files(monkeypatch):
    monkeypatch.setitem(MODELS, "ghost", ModelEntry("ghost", ("ghost.onnx",), "not there"))
    with pytest.raises(ModelMissingError, match=r"ghost: ghost\.onnx not found") as caught:
        find_model("ghost")
    assert "reinstall varfix" in caught.value.hint


def test_the_digest_of_a_pair_covers_both_graphs(shelf):
    path = shelf.pair()
    before = model_digest(str(path))
    assert model_digest(str(path)) == before
    prior = path.with_name("pair.prior.onnx")
    prior.write_bytes(prior.read_bytes().replace(b"hand_made", b"hand_mbde"))
    with pytest.raises(ModelChecksumError, match=r"pair\.prior\.onnx: checksum mismatch"):
        model_digest(str(path))
    write_card(prior, read_card(prior))
    assert model_digest(str(path)) != before


def test_the_digest_does_not_depend_on_the_place_or_the_card(shelf, tmp_path):
    from varfix.onnx.files.card import write_card

    path = shelf.restore()
    before = model_digest(str(path))
    moved = path.rename(tmp_path / "other.onnx")
    write_card(moved, shelf.card(about="better described"))
    assert model_digest(str(moved)) == before
