"""What made a result, or a blend of a result, as it is stated in XMP."""

import pytest

from varfix.engine.batch.provenance import blended_by, restored_by
from varfix.engine.image.metadata.provenance import Provenance, with_provenance
from varfix.engine.settings.types import ModelSettings, Settings, Strength, TileSettings

HALF = Strength(luma=0.5, chroma=0.5)


def test_settings_that_decide_a_result_are_stated():
    assert restored_by("m", Settings(), "b/a.jpg").parameters == (
        "model.name=m; model.task=auto; strength=1"
    )
    settings = Settings(
        strength=Strength(luma=0.6, chroma=1.0),
        model=ModelSettings(task="noise", level=25.0),
        tile=TileSettings(tone_lock="never"),
    )
    made = restored_by("m", settings, "b/a.jpg")
    assert made.source == "a.jpg"
    assert made.parameters == (
        "model.name=m; model.task=noise; model.level=25; tile.tone_lock=never;"
        " strength.luma=0.6; strength.chroma=1"
    )


@pytest.mark.parametrize(
    ("before", "strength", "after"),
    [
        ("model.name=m; strength=0.5", HALF, "model.name=m; strength=0.25"),
        ("strength.luma=0.2; strength.chroma=1", HALF, "strength.luma=0.1; strength.chroma=0.5"),
        ("a=b=c; nothing", HALF, "a=b=c; strength=0.5"),
        ("strength=much", HALF, "strength=0.5"),
        ("strength=1e9", HALF, "strength=0.5"),
        ("strength=1", Strength(luma=0.6, chroma=1.0), "strength.luma=0.6; strength.chroma=1"),
    ],
)
def test_a_blend_has_a_share_of_the_strength(before, strength, after):
    packet = with_provenance(None, Provenance("varfix 9", before, "a.jpg"))
    assert blended_by(packet, strength, "a.jpg").parameters == after


def test_a_blend_with_a_result_of_unknown_origin_has_its_own_strength():
    assert blended_by(None, HALF, "a.jpg").parameters == "strength=0.5"
