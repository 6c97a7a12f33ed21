"""A scan finds images, all of them, in an order that people expect, and nothing else."""

import errno
import inspect
import os
import sys
from pathlib import Path

import pytest

from varfix.engine.storage.scan import Filters, scan


@pytest.fixture
def tree(tmp_path):
    """Make empty files by their names below a folder."""

    def make(*names):
        for name in names:
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "in"

    return make


def found(source, destination=None, **filters):
    return scan(source, destination, Filters(**filters))


def test_images_are_known_by_their_names_in_any_case(tree):
    source = tree("a.jpg", "b.JPEG", "c.PNG", "d.webp", "e.tif", "f.tiff", "g.avif", "h.bmp")
    assert len(found(source).sources) == 8


def test_other_files_are_counted(tree):
    result = found(tree("a.jpg", "notes.txt", "song.mp3", "README"))
    assert result.sources == ["a.jpg"]
    assert sorted(result.ignored) == ["README", "notes.txt", "song.mp3"]


def test_names_come_in_natural_order_with_folders(tree):
    source = tree("10.jpg", "9.jpg", "b/2.jpg", "b/11.jpg", "a/1.jpg")
    assert found(source).sources == ["9.jpg", "10.jpg", "a/1.jpg", "b/2.jpg", "b/11.jpg"]


def test_hidden_and_system_files_are_not_even_counted(tree):
    source = tree(
        "a.jpg", ".b.jpg", ".git/c.jpg", "Thumbs.db", "__MACOSX/d.jpg", "$RECYCLE.BIN/e.jpg"
    )
    result = found(source)
    assert (result.sources, result.ignored) == (["a.jpg"], [])


def test_without_recursion_folders_are_left_alone(tree):
    assert found(tree("a.jpg", "b/c.jpg"), recursive=False).sources == ["a.jpg"]


def test_a_destination_inside_the_source_is_left_out(tree):
    source = tree("a.jpg", "out/a.jpg", "out/b/c.jpg", "x/out/d.jpg")
    assert found(source, source / "out").sources == ["a.jpg", "x/out/d.jpg"]


def test_a_destination_is_recognized_by_another_way_to_it(tree, tmp_path):
    source = tree("a.jpg", "out/a.jpg")
    (tmp_path / "link").symlink_to(source / "out")
    assert found(source, tmp_path / "link").sources == ["a.jpg"]


def test_links_to_folders_are_not_followed_and_links_to_files_are(tree, tmp_path):
    source = tree("a/b.jpg")
    (source / "loop").symlink_to(source)
    (source / "other.jpg").symlink_to(source / "a" / "b.jpg")
    (source / "broken.jpg").symlink_to(tmp_path / "nowhere")
    assert found(source).sources == ["a/b.jpg", "other.jpg"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_with_an_images_name_are_left_alone(tree):
    source = tree("a.jpg")
    os.mkfifo(source / "b.jpg")
    assert found(source).sources == ["a.jpg"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"include": ("*.png",)}, ["b.png", "x/d.png"]),
        ({"include": ("*.png", "*.webp")}, ["b.png", "c.webp", "x/d.png"]),
        ({"include": ("x/",)}, ["x/a.jpg", "x/d.png", "x/y/e.jpg"]),
        ({"include": ("/*.jpg",)}, ["a.jpg"]),
        ({"exclude": ("x/",)}, ["a.jpg", "b.png", "c.webp"]),
        ({"exclude": ("*.jpg", "!/a.jpg")}, ["a.jpg", "b.png", "c.webp", "x/d.png"]),
        ({"include": ("**/y/*",)}, ["x/y/e.jpg"]),
        ({"include": ("*.jpg",), "exclude": ("x/*",)}, ["a.jpg"]),
    ],
)
def test_globs_follow_the_rules_of_gitignore(tree, filters, expected):
    source = tree("a.jpg", "b.png", "c.webp", "x/a.jpg", "x/d.png", "x/y/e.jpg")
    assert found(source, **filters).sources == expected


def test_what_filters_leave_out_counts_as_ignored(tree):
    assert found(tree("a.jpg", "b.png"), exclude=("*.png",)).ignored == ["b.png"]


def test_a_folder_that_may_not_be_read_is_reported_with_its_path(tree, monkeypatch):
    source = tree("a.jpg", "private/b.jpg")
    real = os.scandir

    def guarded(path):
        if Path(path).name == "private":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    result = found(source)
    assert result.sources == ["a.jpg"]
    assert result.denied == {str(source / "private"): "permission denied"}


def test_names_that_are_no_text_are_found(tree):
    source = tree("a.jpg")
    try:
        (source / os.fsdecode(b"caf\xe9.jpg")).touch()
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert found(source).sources == ["a.jpg", os.fsdecode(b"caf\xe9.jpg")]


def test_folders_may_be_nested_deeper_than_pythons_stack(tmp_path):
    deep = tmp_path.joinpath(*["d"] * 150)
    deep.mkdir(parents=True)
    (deep / "a.jpg").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 100)
    try:
        result = found(tmp_path)
    finally:
        sys.setrecursionlimit(limit)
    assert result.sources == ["d/" * 150 + "a.jpg"]


SYSTEM = ("@eaDir", "#recycle", "lost+found", ".Trash-1000", "$RECYCLE.BIN", "Thumbs.db")


@pytest.mark.parametrize("folder", SYSTEM)
def test_folders_of_systems_and_network_storage_are_skipped_unless_named(tree, folder):
    source = tree("a.jpg", f"{folder}/a.jpg", f"x/{folder}/SYNOPHOTO_THUMB_XL.jpg")
    assert found(source).sources == ["a.jpg"]
    assert found(source, include=("*.jpg",)).sources == ["a.jpg"]
    named = found(source, include=(f"{folder.replace('#', chr(92) + '#')}/",))
    assert set(named.sources) == {f"{folder}/a.jpg", f"x/{folder}/SYNOPHOTO_THUMB_XL.jpg"}


def test_the_state_folder_is_never_brought_back(tree):
    source = tree("a.jpg", ".varfix/b.jpg")
    assert found(source, include=(".varfix/", "*.jpg")).sources == ["a.jpg"]


def test_links_to_nothing_and_videos_of_other_kinds_count_as_ignored(tree):
    source = tree("a.jpg", "b.mxf", "c.rm", "d.ts")
    (source / "e.jpg").symlink_to(source / "gone.jpg")
    result = found(source)
    assert result.sources == ["a.jpg"]
    assert sorted(result.ignored) == ["b.mxf", "c.rm", "d.ts", "e.jpg"]


def test_a_folder_that_cannot_be_opened_is_reported_with_its_reason(tree, monkeypatch):
    source = tree("a.jpg", "long/b.jpg")
    real = os.scandir

    def guarded(path):
        if Path(path).name == "long":
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert found(source).denied == {str(source / "long"): "file name too long"}
