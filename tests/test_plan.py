"""What becomes of which file is decided, and refused, before any work."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from varfix.engine.errors import (
    AlphaLostError,
    CollisionError,
    FormatLimitError,
    NothingToDoError,
    PlanError,
)
from varfix.engine.plan import BatchRequest, name_outputs, plan_batch
from varfix.engine.settings import OutputSettings, Settings

DEFAULTS = Settings()


def draw(path, size=(24, 16), channels=3):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, samples)[1].tobytes())
    return path


def plan(source, destination, settings=DEFAULTS):
    return plan_batch(source, destination, BatchRequest(), settings, "recipe")


@pytest.fixture
def folder(tmp_path):
    draw(tmp_path / "in/a.png")
    return tmp_path / "in"


NAMES = st.lists(
    st.builds(
        "{}{}{}".format,
        st.sampled_from(["", "d/", "d/e/"]),
        st.sampled_from(["a", "b", "a.jpg", "a.png"]),
        st.sampled_from([".jpg", ".png", ".webp", ".JPG", ".tiff"]),
    ),
    unique=True,
    max_size=8,
)


@given(NAMES, st.sampled_from(["keep", "png", "jpg", "webp"]))
def test_results_never_share_a_name(names, wanted):
    settings = Settings(output=OutputSettings(format=wanted))
    try:
        named = name_outputs(names, BatchRequest(), settings)
    except CollisionError:
        assert wanted != "keep"
        return
    assert list(named) == names
    assert len(set(named.values())) == len(names)
    assert all(Path(src).parent == Path(dst).parent for src, dst in named.items())
    if wanted == "keep":
        assert all(src == dst for src, dst in named.items())


def test_the_second_of_two_equal_names_keeps_its_extension():
    settings = Settings(output=OutputSettings(format="webp"))
    named = name_outputs(["a.jpg", "a.png", "d/a.png"], BatchRequest(), settings)
    assert named == {"a.jpg": "a.webp", "a.png": "a.png.webp", "d/a.png": "d/a.webp"}


def test_names_that_collide_even_so_are_refused():
    settings = Settings(output=OutputSettings(format="webp"))
    with pytest.raises(CollisionError, match=r"a\.png\.webp"):
        name_outputs(["a.png.jpg", "a.jpg", "a.png"], BatchRequest(), settings)


def test_the_template_names_the_results():
    request = BatchRequest(name="{dir}{stem}-{preset}-{model}{ext}", preset="derain")
    named = name_outputs(["x/a.jpg", "b.png"], request, Settings())
    assert named["x/a.jpg"] == "x/a-derain-varformer-s.jpg"
    assert named["b.png"] == "b-derain-varformer-s.png"


@pytest.mark.parametrize(
    "template", ["{foo}{ext}", "{}", "{stem", "../{stem}{ext}", "/tmp/{stem}{ext}", ""]
)
def test_a_template_that_makes_no_name_below_the_destination_is_refused(template):
    with pytest.raises(PlanError):
        name_outputs(["x/a.jpg"], BatchRequest(name=template), Settings())


def test_a_folder_without_pictures_is_nothing_to_do(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("x")
    with pytest.raises(NothingToDoError, match=r"No images under .*in .*1 files? ignored"):
        plan(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_transparency_is_not_dropped_unasked(folder, tmp_path):
    draw(folder / "logo.png", channels=4)
    jpeg = Settings(output=OutputSettings(format="jpg"))
    with pytest.raises(AlphaLostError, match=r"logo\.png"):
        plan(folder, tmp_path / "out", settings=jpeg)
    assert not (tmp_path / "out").exists()


def test_a_picture_too_wide_for_its_format_is_refused(tmp_path):
    draw(tmp_path / "in/pano.png", size=(16384, 1))
    webp = Settings(output=OutputSettings(format="webp"))
    with pytest.raises(FormatLimitError, match=r"pano\.png.*16383"):
        plan(tmp_path / "in", tmp_path / "out", settings=webp)


def test_in_place_has_to_be_asked_for(folder):
    with pytest.raises(PlanError, match="also the source"):
        plan(folder, folder)
