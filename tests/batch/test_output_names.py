"""Every result has a unique name on every file system, decided before any work."""

import os
import unicodedata
from pathlib import PurePosixPath

import pytest
from PIL import Image

from varfix.engine.batch import output_names as module
from varfix.engine.batch.case_collisions import casefolded, exact
from varfix.engine.batch.output_names import Naming, name_apart, name_outputs
from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_batch
from varfix.engine.errors import CollisionError, ExitCode, PlanError
from varfix.engine.settings.types import OutputSettings, Settings

COMPOSED, APART = "\u00e9.png", "e\u0301.png"


def named(*sources, template="{dir}{stem}{ext}", to=None, owners=None, key_of=exact):
    def extension(src):
        return to or PurePosixPath(src).suffix

    naming = Naming(template, "derain", "net", extension)
    return list(name_outputs(sources, naming, owners, key_of).values())


def test_names_and_folders_are_kept():
    assert named("a.jpg", "b/c.d.PNG") == ["a.jpg", "b/c.d.PNG"]


def test_the_second_of_two_names_keeps_its_own_extension():
    assert named("a.jpg", "a.png", to=".webp") == ["a.webp", "a.png.webp"]


def test_the_same_stem_with_different_extensions_stays_apart():
    assert named("a.jpg", "a.png") == ["a.jpg", "a.png"]


def test_the_same_name_in_different_folders_stays_apart():
    assert named("a/x.jpg", "b/x.jpg") == ["a/x.jpg", "b/x.jpg"]
    assert named("a/x.jpg", "b/x.jpg", template="{stem}{ext}") == ["x.jpg", "x.jpg.jpg"]


def test_names_that_still_collide_are_rejected():
    with pytest.raises(CollisionError, match=r"b/x\.jpg and c/x\.jpg would both become") as caught:
        named("a/x.jpg", "b/x.jpg", "c/x.jpg", template="{stem}{ext}")
    assert caught.value.exit_code is ExitCode.USAGE
    assert "--name" in caught.value.hint


def test_a_collision_of_names_that_are_not_text_is_reported():
    odd = os.fsdecode(b"a/\xff.jpg")
    with pytest.raises(CollisionError) as caught:
        named(odd, "b/x.jpg", template="one{ext}")
    assert caught.value.message.encode()


def test_a_template_names_results():
    template = "new/{dir}{stem}-{preset}-{model}{ext}"
    assert named("a/b.jpg", "c.png", template=template) == [
        "new/a/b-derain-net.jpg",
        "new/c-derain-net.png",
    ]


@pytest.mark.parametrize(
    "template",
    [
        "{stam}{ext}",
        "{}",
        "{0}",
        "{stem",
        "{stem.__class__}",
        "{stem[0]}",
        "{stem:>99}",
        "{stem!r}",
    ],
)
def test_a_template_that_cannot_be_filled_is_refused(template):
    with pytest.raises(PlanError, match="--name"):
        named("a.jpg", template=template)


@pytest.mark.parametrize(
    "template",
    ["../{stem}{ext}", "/tmp/{stem}{ext}", "", "{dir}", "a/../../b", "a\0b", ".varfix/run.jsonl"],
)
def test_a_template_does_not_lead_out_of_the_destination(template):
    with pytest.raises(PlanError, match="not a file in the destination"):
        named("a.jpg", template=template)


def test_doubled_braces_are_literal():
    assert named("a{b}.jpg", template="{{{stem}}}{ext}") == ["{a{b}}.jpg"]


def test_a_result_never_replaces_another_source():
    owners = {"a.png": "a.png", "a.jpg": "a.jpg"}
    assert named("a.jpg", "a.png", to=".png", owners=owners) == ["a.jpg.png", "a.png"]


def test_a_result_never_replaces_a_folder_of_results():
    assert named("x.webp/a.png", "x.png", to=".webp") == ["x.webp/a.webp", "x.png.webp"]
    with pytest.raises(CollisionError):
        named("x.png", "x.webp/a.png", to=".webp")


def test_names_in_one_folder_do_not_take_the_folder_from_each_other():
    assert named("x/a.png", "x/b.png", "x/y/c.png") == ["x/a.png", "x/b.png", "x/y/c.png"]


# On file systems that take several names for one


@pytest.mark.parametrize(
    ("sources", "results"),
    [
        (("a.jpg", "a.JPG"), ["a.jpg", "a.JPG.JPG"]),
        (("Photo.png", "photo.png"), ["Photo.png", "photo.png.png"]),
        (("A/x.png", "a/x.png"), ["A/x.png", "a/x.png.png"]),
        (("A/x.png", "a/y.png"), ["A/x.png", "a/y.png"]),
        ((COMPOSED, APART), [COMPOSED, f"{APART}.png"]),
        (("STRASSE.png", "stra\u00dfe.png"), ["STRASSE.png", "stra\u00dfe.png.png"]),
    ],
)
def test_names_that_would_be_equal_are_kept_apart(sources, results):
    assert named(*sources, key_of=casefolded) == results
    assert named(*sources) == list(sources)


def test_collisions_that_cannot_be_avoided_are_rejected():
    with pytest.raises(CollisionError, match=r"PHOTO\.PNG would both become"):
        named("Photo.png", "photo.png", "PHOTO.PNG", key_of=casefolded)


def test_another_format_can_cause_a_collision():
    sources = ("a.png", "A.jpg", "b.png")
    assert named(*sources, to=".webp", key_of=casefolded) == ["a.webp", "A.jpg.webp", "b.webp"]


def test_a_result_never_replaces_a_source_that_differs_only_in_case():
    owners = {"a.png": "a.png", "A.jpg": "A.jpg"}
    assert named("A.jpg", "a.png", to=".png", owners=owners, key_of=casefolded) == [
        "A.jpg.png",
        "a.png",
    ]


@pytest.fixture
def destination(monkeypatch):
    """Let every folder compare names in that way; returns the folders that were probed."""

    def become(key_of):
        probed = []
        monkeypatch.setattr(
            module, "detect_comparison", lambda folder: probed.append(folder) or key_of
        )
        return probed

    return become


def test_the_file_system_is_probed_only_for_names_that_may_collide(destination, tmp_path):
    probed = destination(exact)
    naming = Naming("{stem}{ext}", "auto", "net", lambda src: ".png")
    assert name_apart(["a.png", "b.png"], naming, {}, tmp_path) == {
        "a.png": "a.png",
        "b.png": "b.png",
    }
    assert not probed
    assert len(name_apart(["a.png", "A.png"], naming, {}, tmp_path)) == 2
    assert probed == [tmp_path]


def two_images(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    if len(list(folder.iterdir())) < len(names):
        pytest.skip("the tests' own file system takes them for one")


@pytest.mark.parametrize(
    ("names", "wanted", "second"),
    [
        (("a.JPG", "a.jpg"), "keep", "a.jpg.jpg"),
        ((COMPOSED, APART), "keep", f"{APART}.png"),
        (("A.png", "a.jpg"), "webp", "a.jpg.webp"),
    ],
)
def test_a_plan_knows_how_its_destination_compares_names(
    tmp_path, destination, names, wanted, second
):
    two_images(tmp_path / "in", *names)
    settings = Settings(output=OutputSettings(format=wanted))

    def planned():
        plan = plan_batch(tmp_path / "in", tmp_path / "out", BatchRequest(), settings, "recipe")
        return [item.target.name for item in plan.items]

    destination(exact)
    apart = planned()
    destination(casefolded)
    assert planned() == [apart[0], second]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in planned()}) == 2
    assert not (tmp_path / "out").exists()
