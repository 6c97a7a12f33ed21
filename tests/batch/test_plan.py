"""A plan says before any work which image becomes which file, and which results stay."""

import os

import numpy as np
import pytest
from PIL import Image

from varfix.engine.batch.output_format import format_for
from varfix.engine.batch.plan import BatchRequest, ignored_lines, plan_single, plan_warnings
from varfix.engine.batch.planner import image_item, plan_batch
from varfix.engine.errors import (
    AlphaLostError,
    ExitCode,
    FormatLimitError,
    NothingToDoError,
    PlanError,
)
from varfix.engine.formats import Header
from varfix.engine.settings.types import OutputSettings, Settings
from varfix.engine.storage.scan import Filters

KEEP = Settings()


def wanting(fmt, **output):
    return Settings(output=OutputSettings(format=fmt, **output))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def draw(path, mode="RGB", size=(8, 6), color=None, fmt=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color or 90).save(path, fmt)
    return path


def planned(source, out, settings=KEEP, **request):
    return plan_batch(source, out, BatchRequest(**request), settings, "recipe")


def pairs(plan):
    return [(item.source.name, item.target.name) for item in plan.items]


def test_a_plan_lists_what_is_to_be_done(source, out):
    draw(source / "b" / "c.jpg", size=(30, 20))
    draw(source / "a.png")
    (source / "notes.txt").touch()
    plan = planned(source, out)
    assert pairs(plan) == [("a.png", "a.png"), ("b/c.jpg", "b/c.jpg")]
    assert [item.target.path for item in plan.items] == [out / "a.png", out / "b" / "c.jpg"]
    assert plan.items[1].header == Header("jpeg", 30, 20, False, 8)
    assert plan.pixels == 48 + 600
    assert list(ignored_lines(plan.found)) == ["ignored notes.txt"]
    assert not out.exists()


def test_memory_is_estimated_from_the_header(source, out):
    draw(source / "a.png", size=(100, 10))
    draw(source / "b.png", size=(200, 10))
    small, large = planned(source, out).items
    assert large.cost - small.cost == 36 * 1000


def test_an_unreadable_image_is_planned_and_fails_later(source, out):
    (source / "a.jpg").write_bytes(b"no picture")
    (item,) = planned(source, out).items
    assert item.header is None
    assert item.cost > 0


def test_no_images_is_nothing_to_do(source, out):
    (source / "notes.txt").touch()
    with pytest.raises(NothingToDoError) as caught:
        planned(source, out)
    assert f"{source}: no images (looked for 3g2, 3gp" in caught.value.message
    assert "1 file ignored" in caught.value.message


def test_a_missing_source_is_nothing_to_do(tmp_path, out):
    with pytest.raises(NothingToDoError, match="no such folder"):
        planned(tmp_path / "gone", out)


def test_filters_reach_the_scan(source, out):
    draw(source / "a.png")
    draw(source / "b.jpg")
    plan = planned(source, out, filters=Filters(include=("*.jpg",)))
    assert pairs(plan) == [("b.jpg", "b.jpg")]


def test_in_place_needs_overwrite(source):
    draw(source / "a.png")
    with pytest.raises(PlanError, match="also the source"):
        planned(source, source)
    assert pairs(planned(source, source, overwrite=True)) == [("a.png", "a.png")]


def test_in_place_is_detected_through_links(source, tmp_path):
    draw(source / "a.png")
    (tmp_path / "link").symlink_to(source)
    with pytest.raises(PlanError, match="also the source"):
        planned(source, tmp_path / "link")


def test_in_place_another_format_replaces_no_other_source(source):
    draw(source / "a.jpg")
    draw(source / "a.png")
    plan = planned(source, source, wanting("png"), overwrite=True)
    assert pairs(plan) == [("a.jpg", "a.jpg.png"), ("a.png", "a.png")]


def test_a_destination_around_the_source_replaces_no_source(source):
    draw(source / "x.png")
    draw(source / "in" / "x.png")
    plan = planned(source, source.parent, overwrite=True)
    assert pairs(plan) == [("in/x.png", "in/x.png.png"), ("x.png", "x.png")]


def test_a_destination_inside_the_source_is_not_its_own_input(source):
    draw(source / "a.png")
    draw(source / "out" / "b.png")
    assert pairs(planned(source, source / "out")) == [("a.png", "a.png")]
    listed = (str(source / "a.png"), str(source / "out" / "b.png"))
    assert pairs(planned(source, source / "out", files=listed)) == [("a.png", "a.png")]


def test_listed_files_keep_their_order_without_duplicates(source, out):
    for name in ("a.png", "b/c.png", "d.png"):
        draw(source / name)
    plan = planned(source, out, files=("d.png", "b/c.png", "d.png", str(source / "d.png")))
    assert pairs(plan) == [("d.png", "d.png"), ("b/c.png", "b/c.png")]


def test_listed_files_are_relative_to_the_current_or_source_folder(source, out, monkeypatch):
    draw(source / "b" / "c.png")
    monkeypatch.chdir(source.parent)
    for name in ("in/b/c.png", "b/c.png", "./in/b/../b/c.png", str(source / "b" / "c.png")):
        assert pairs(planned(source, out, files=(name,))) == [("b/c.png", "b/c.png")]


def test_folders_in_a_list_are_ignored(source, out):
    draw(source / "b" / "c.png")
    plan = planned(source, out, files=(str(source), "b", "b/c.png"))
    assert pairs(plan) == [("b/c.png", "b/c.png")]


@pytest.mark.parametrize(
    ("files", "ignored", "text"),
    [
        ((), (), "--files-from: the list is empty"),
        ((".",), (".",), "--files-from: the list names no image in {} (1 name ignored)"),
        (("b", "a.png"), ("b", "a.png"), "--files-from: the list names no image in {} (2 names"),
    ],
)
def test_a_list_without_images_is_blamed_and_not_the_folder(source, out, files, ignored, text):
    draw(source / "a.png")
    (source / "b").mkdir()
    with pytest.raises(NothingToDoError) as caught:
        planned(source, out, files=files, filters=Filters(exclude=("*.png",)))
    assert caught.value.message.startswith(text.format(source))
    assert caught.value.hint
    assert caught.value.ignored == ignored


@pytest.mark.parametrize("name", ["../elsewhere.png", "../gone.png", "/etc/hostname"])
def test_listed_files_outside_the_source_are_refused(source, out, name):
    draw(source.parent / "elsewhere.png")
    with pytest.raises(PlanError, match="not a file in"):
        planned(source, out, files=(name,))


def test_listed_files_that_are_missing_are_planned_and_fail_later(source, out, monkeypatch):
    monkeypatch.chdir(source.parent)
    listed = ("gone.png", "in/b/gone.png")
    plan = planned(source, out, files=listed)
    assert pairs(plan) == [("gone.png", "gone.png"), ("b/gone.png", "b/gone.png")]
    assert [item.header for item in plan.items] == [None, None]


def test_a_listed_image_needs_no_extension(source, out):
    draw(source / "scan", fmt="PNG")
    assert pairs(planned(source, out, files=("scan",))) == [("scan", "scan")]


def test_a_sample_is_spread_evenly(source, out):
    for number in range(10):
        draw(source / f"{number}.png")
    plan = planned(source, out, sample=3)
    assert [item.source.name for item in plan.items] == ["1.png", "5.png", "8.png"]
    assert len(planned(source, out, sample=50).items) == 10


def test_a_sample_has_the_names_of_the_whole_run(source, out):
    draw(source / "a.jpg")
    draw(source / "a.png")
    whole = dict(pairs(planned(source, out, wanting("webp"))))
    (sampled,) = pairs(planned(source, out, wanting("webp"), sample=1))
    assert sampled == ("a.png", "a.png.webp")
    assert whole[sampled[0]] == sampled[1]


def test_existing_files_are_foreign_and_need_overwrite(source, out):
    draw(source / "a.png")
    draw(out / "a.png")
    plan = planned(source, out)
    assert not plan.items
    assert [(skip.src, skip.reason) for skip in plan.skips] == [("a.png", "foreign")]
    assert plan.skipped("foreign") == 1
    (warning,) = plan_warnings(plan)
    assert warning.code == "foreign_outputs"
    assert warning.message.startswith("1 file in the destination was not made by varfix and is")
    assert pairs(planned(source, out, overwrite=True)) == [("a.png", "a.png")]


def test_an_image_too_large_for_the_format_stops_the_plan(source, out):
    draw(source / "pano.png", size=(16384, 1))
    with pytest.raises(FormatLimitError, match=r"pano\.png → WebP: 16384 px is over") as caught:
        planned(source, out, wanting("webp"))
    assert caught.value.exit_code is ExitCode.USAGE


def test_an_opaque_alpha_does_not_hide_that_an_image_is_too_large(source, out):
    draw(source / "pano.png", "RGBA", size=(16384, 1), color=(1, 2, 3, 255))
    with pytest.raises(FormatLimitError):
        planned(source, out, wanting("webp"))


def test_transparency_into_a_format_without_it_stops_the_plan(source, out):
    draw(source / "logo.png", "RGBA", color=(1, 2, 3, 40))
    with pytest.raises(AlphaLostError, match=r"logo\.png has transparency, JPEG cannot store it"):
        planned(source, out, wanting("jpg"))
    assert planned(source, out, wanting("jpg", flatten="white")).items


def test_an_opaque_alpha_channel_is_not_a_loss(source, out):
    draw(source / "logo.png", "RGBA", color=(1, 2, 3, 255))
    assert pairs(planned(source, out, wanting("jpg"))) == [("logo.png", "logo.jpg")]


def test_a_template_that_changes_the_format_is_checked_as_such(source, out):
    draw(source / "logo.png", "RGBA", color=(1, 2, 3, 40))
    with pytest.raises(AlphaLostError):
        planned(source, out, name="{stem}.jpg")


def test_a_file_with_a_wrong_extension_keeps_its_format(source, out):
    path = draw(source / "logo.jpg", "RGBA", color=(1, 2, 3, 40), fmt="PNG")
    assert planned(source, out).items
    assert format_for(path.name, "logo.jpg", KEEP) == "keep"


@pytest.mark.parametrize(
    ("source_name", "target_name", "wanted", "expected"),
    [
        ("a.png", "b.png", "keep", "keep"),
        ("a.png", "b.jpg", "keep", "jpeg"),
        ("a.jpg", "b.jpeg", "keep", "keep"),
        ("a.png", "b", "keep", "keep"),
        ("in", "b.webp", "keep", "webp"),
        ("a.png", "b.jpg", "webp", "webp"),
    ],
)
def test_the_format_is_that_of_the_setting_the_name_or_the_source(
    source_name, target_name, wanted, expected
):
    assert format_for(source_name, target_name, wanting(wanted)) == expected


def test_a_single_file_is_planned(source, out):
    path = draw(source / "a.png")
    plan = plan_single(image_item(path, out / "b.png", False, KEEP), "f")
    (item,) = plan.items
    assert (item.source.path, item.target.path) == (path, out / "b.png")
    assert (plan.source.folder, plan.target.folder) == (source, out)
    assert (plan.fingerprint, plan.manifest) == ("f", None)


def test_a_single_target_that_exists_needs_overwrite(source):
    path = draw(source / "a.png")
    with pytest.raises(PlanError, match="exists"):
        image_item(path, path, False, KEEP)
    assert image_item(path, path, True, KEEP).header is not None


def test_a_single_target_that_is_a_folder_is_refused(source):
    path = draw(source / "a.png")
    with pytest.raises(PlanError, match="is a folder"):
        image_item(path, source, True, KEEP)


def test_a_missing_single_source_is_nothing_to_do(source, out):
    with pytest.raises(NothingToDoError):
        image_item(source / "gone.png", out / "b.png", False, KEEP)


def test_a_video_is_rejected_as_an_image(source, out):
    (source / "clip.mp4").write_bytes(b"\0")
    with pytest.raises(PlanError, match=r"clip\.mp4 is a video") as caught:
        image_item(source / "clip.mp4", out / "a.png", False, KEEP)
    assert "varfix video" in caught.value.hint


def test_a_single_transparent_image_does_not_become_a_jpeg(source, out):
    path = draw(source / "logo.png", "RGBA", color=(1, 2, 3, 40))
    with pytest.raises(AlphaLostError):
        image_item(path, out / "logo.jpg", False, KEEP)


def test_names_that_are_not_text_are_planned(source, out):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        draw(source / "x.png").rename(source / name)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert pairs(planned(source, out)) == [(name, name)]


def test_planning_writes_nothing(source, out):
    draw(source / "a.png")
    before = np.array([path.stat().st_mtime_ns for path in source.rglob("*")])
    planned(source, out)
    assert (before == [path.stat().st_mtime_ns for path in source.rglob("*")]).all()
    assert not out.exists()
