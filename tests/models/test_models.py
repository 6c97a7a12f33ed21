import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varfix.engine.errors import ModelContractError
from varfix.engine.models.card import SPECIALISTS, TASKS, ModelCard, from_metadata, to_metadata
from varfix.engine.models.registry import MODELS
from varfix.engine.settings.types import ModelSettings, Settings

CARD = ModelCard(
    name="varformer-s",
    licence="Apache-2.0",
    tile=512,
    multiple=16,
    overlap=32,
    tasks=("auto", "noise", "rain"),
    guidance="image",
    thumbnail=256,
    prior_channels=32,
    fp16="ok",
    vram_mb={"1": 900, "8": 3100},
    sha256="ab" * 32,
    about="small; quick, and plain",
    training="10 h of two cores",
)


def test_a_card_survives_the_trip_through_metadata():
    assert from_metadata(to_metadata(CARD)) == CARD


def test_metadata_is_text_that_other_programs_can_read():
    metadata = to_metadata(CARD)
    assert metadata["varfix.schema"] == "1"
    assert metadata["varfix.tasks"] == "auto,noise,rain"
    assert metadata["varfix.vram_mb"] == '{"1":900,"8":3100}'
    assert metadata["varfix.range"] == "0..1"
    assert {type(value) for value in metadata.values()} == {str}


@given(
    st.builds(
        ModelCard,
        name=st.text(),
        licence=st.text(),
        tile=st.integers(1, 64).map(lambda n: 16 * n),
        multiple=st.just(16),
        overlap=st.integers(0, 15),
        tasks=st.lists(st.sampled_from(TASKS), min_size=1, unique=True).map(tuple),
        vram_mb=st.dictionaries(st.integers(1, 99).map(str), st.integers(1, 10**6)),
        about=st.text(),
    )
)
def test_any_card_survives_the_trip_through_metadata(card):
    assert from_metadata(to_metadata(card)) == card


def test_other_programs_keys_and_later_facts_are_ignored():
    metadata = {**to_metadata(CARD), "author": "someone", "varfix.color_depth": "10"}
    assert from_metadata(metadata) == CARD


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"varfix.tile": "many"}, "tile"),
        ({"varfix.guidance": "telepathy"}, "guidance"),
        ({"varfix.tile": "100"}, "tile 100 is not a multiple of 16"),
        ({"varfix.overlap": "512"}, "overlap 512"),
        ({"varfix.prior_channels": "0"}, "prior_channels"),
        ({"varfix.prior_stride": "12"}, "prior_stride"),
        ({"varfix.multiple": "0"}, "multiple"),
        ({"varfix.vram_mb": "{"}, "invalid model card"),
        ({"varfix.layout": "NHWC"}, "layout"),
        ({"varfix.schema": "2"}, "has schema 2, expected 1"),
        ({"varfix.schema": "new"}, "has schema new"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(change, words):
    with pytest.raises(ModelContractError, match=words):
        from_metadata({**to_metadata(CARD), **change})


def test_a_missing_fact_is_refused_by_name():
    metadata = to_metadata(CARD)
    del metadata["varfix.multiple"]
    with pytest.raises(ModelContractError, match="multiple"):
        from_metadata(metadata)


def test_a_graph_without_card_is_not_a_varfix_model():
    with pytest.raises(ModelContractError, match="no varfix model card"):
        from_metadata({"author": "someone"})


def test_sizes_are_checked_however_a_card_is_made():
    with pytest.raises(ValueError, match="not a multiple"):
        ModelCard(name="x", licence="MIT", tile=100, multiple=16, overlap=0)


def test_task_numbers_are_those_that_graphs_were_exported_with():
    assert TASKS == ("auto", "noise", "rain", "haze", "lowlight", "blur", "snow")


def test_settings_take_exactly_the_tasks_that_graphs_know():
    for task in TASKS:
        assert msgspec.convert({"task": task}, ModelSettings).tasks == (task,)
    for unknown in ("fog", "noise,fog", "", "noise,"):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"task": unknown}, ModelSettings)


def test_the_default_model_is_a_known_one():
    assert Settings().model.name in MODELS


def test_registry_names_match_their_entries_and_files():
    for name, entry in MODELS.items():
        assert entry.name == name
        assert entry.files[0] == f"{name}.onnx"
        companions = ("prior", "fp16", *SPECIALISTS)
        assert set(entry.files[1:]) <= {f"{name}.{each}.onnx" for each in companions}
        assert entry.summary
