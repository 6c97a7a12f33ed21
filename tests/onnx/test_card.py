import hashlib

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varfix.engine.errors import ModelChecksumError, ModelContractError, ModelMissingError
from varfix.onnx.files import protobuf as wire
from varfix.onnx.files.card import graph_digest, read_card, read_metadata, verify_model, write_card


@given(st.dictionaries(st.text(), st.text()))
def test_metadata_pairs_are_the_ones_onnx_reads_and_writes(pairs):
    data = b"".join(wire.encode_pair(*pair) for pair in pairs.items())
    model = onnx.ModelProto.FromString(data)
    assert {entry.key: entry.value for entry in model.metadata_props} == pairs
    view = memoryview(model.SerializeToString())
    read = dict(wire.decode_pair(view[field.body : field.end]) for field in wire.fields(view))
    assert read == pairs


@given(st.binary())
def test_any_bytes_are_either_fields_that_cover_them_or_refused(data):
    view = memoryview(data)
    try:
        found = list(wire.fields(view))
    except wire.ProtobufError:
        return
    assert b"".join(view[field.start : field.end] for field in found) == data


def test_a_written_card_is_read_back_by_us_by_onnx_and_by_onnx_runtime(shelf):
    import onnxruntime

    path = shelf.restore()
    card = read_card(path)
    assert card.name == "hand-made"
    assert {p.key: p.value for p in onnx.load(path).metadata_props} == read_metadata(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == read_metadata(path)


def test_the_checksum_is_that_of_the_graph_before_it_had_a_card(shelf):
    path = shelf.foreign()
    before = path.read_bytes()
    card = write_card(path, shelf.card())
    assert card.sha256 == graph_digest(path) == hashlib.sha256(before).hexdigest()


def test_a_second_card_replaces_the_first_and_spares_other_metadata(shelf):
    path = shelf.foreign()
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"author": "someone"})
    onnx.save(model, path)
    first = write_card(path, shelf.card(about="first"))
    second = write_card(path, shelf.card(about="second"))
    assert second.sha256 == first.sha256
    assert read_card(path) == second
    assert read_metadata(path)["author"] == "someone"
    assert len(onnx.load(path).metadata_props) == len(read_metadata(path))


def test_writing_a_card_leaves_no_other_file(shelf):
    path = shelf.restore()
    assert list(path.parent.iterdir()) == [path]


def test_an_intact_model_verifies(shelf):
    path = shelf.restore()
    assert verify_model(path) == read_card(path)


def test_a_flipped_bit_in_the_graph_is_found(shelf):
    path = shelf.restore()
    data = path.read_bytes()
    path.write_bytes(data.replace(b"hand_made", b"hand_mbde"))
    with pytest.raises(ModelChecksumError, match=r"hand-made\.onnx: checksum mismatch"):
        verify_model(path)


def test_damage_in_the_prior_graph_is_found_too(shelf):
    path = shelf.pair()
    prior = path.with_name("pair.prior.onnx")
    prior.write_bytes(prior.read_bytes().replace(b"hand_made", b"hand_mbde"))
    with pytest.raises(ModelChecksumError, match=r"pair\.prior\.onnx"):
        verify_model(path)


def test_a_missing_prior_graph_is_found(shelf):
    path = shelf.pair()
    path.with_name("pair.prior.onnx").unlink()
    with pytest.raises(ModelMissingError, match=r"pair\.prior\.onnx"):
        verify_model(path)


def test_a_text_file_is_no_model(tmp_path):
    path = tmp_path / "notes.onnx"
    path.write_text("these are notes, not a network\n")
    with pytest.raises(ModelContractError, match=r"notes\.onnx: not a complete ONNX file"):
        read_card(path)


def test_a_file_cut_anywhere_is_no_model(shelf):
    path = shelf.foreign()
    data = path.read_bytes()
    for length in range(1, len(data) - len(b"B\x04\n\x00\x10\x11")):
        path.write_bytes(data[:length])
        with pytest.raises(ModelContractError, match="not a complete ONNX file"):
            read_card(path)


def test_an_empty_file_is_no_model(tmp_path):
    path = tmp_path / "net.onnx"
    path.touch()
    with pytest.raises(ModelContractError, match="empty file"):
        read_card(path)


def test_a_file_that_is_not_there_is_missing(tmp_path):
    with pytest.raises(ModelMissingError, match="no such file"):
        read_card(tmp_path / "net.onnx")


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(ModelMissingError):
        read_card(tmp_path)


def test_a_graph_without_a_card_has_the_name_of_its_file(shelf):
    with pytest.raises(ModelContractError, match=r"net\.onnx: no varfix model card") as caught:
        read_card(shelf.foreign())
    assert "varfix export-onnx" in caught.value.hint
