"""A scan finds the pictures, all of them, in an order people expect."""

import os

import pytest

from varfix.engine.scan import Filters, scan


@pytest.fixture
def tree(tmp_path):
    def plant(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        return tmp_path

    return plant


def test_pictures_come_in_natural_order_with_their_folders(tree):
    root = tree("a10.png", "a9.PNG", "b/2.jpg", "b/10.jpeg", "b/c/x.webp", "z.tif", "y.avif")
    found = scan(root, None, Filters())
    assert set(found.pictures) == {
        "a9.PNG", "a10.png", "b/2.jpg", "b/10.jpeg", "b/c/x.webp", "y.avif", "z.tif"
    }  # fmt: skip
    order = found.pictures.index
    assert order("a9.PNG") < order("a10.png")
    assert order("b/2.jpg") < order("b/10.jpeg")
    assert not found.ignored and not found.denied


def test_other_files_are_counted_hidden_and_system_files_are_not(tree):
    root = tree("a.png", "notes.txt", ".b.png", ".git/c.png", "Thumbs.db", "__MACOSX/a.png")
    found = scan(root, None, Filters())
    assert (found.pictures, found.ignored) == (["a.png"], ["notes.txt"])


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (Filters(include=("*.jpg",)), ["a.jpg", "raw/b.jpg"]),
        (Filters(exclude=("raw/",)), ["a.jpg", "a.png"]),
        (Filters(include=("*.jpg",), exclude=("/a.*",)), ["raw/b.jpg"]),
        (Filters(exclude=("*", "!*.png")), ["a.png"]),
        (Filters(recursive=False), ["a.jpg", "a.png"]),
    ],
)
def test_globs_follow_gitignore(tree, filters, expected):
    root = tree("a.jpg", "a.png", "raw/b.jpg")
    assert scan(root, None, filters).pictures == expected


@pytest.mark.parametrize("spelling", ["in/out", "in/../in/out", "link"])
def test_the_destination_is_no_source(tree, tmp_path, spelling):
    tree("in/a.png", "in/out/a.png", "in/outer/b.png")
    (tmp_path / "link").symlink_to(tmp_path / "in/out")
    found = scan(tmp_path / "in", tmp_path / spelling, Filters())
    assert found.pictures == ["a.png", "outer/b.png"]


def test_links_to_files_count_links_to_folders_do_not(tree, tmp_path):
    tree("in/a.png", "elsewhere/b.png")
    (tmp_path / "in/linked.png").symlink_to(tmp_path / "elsewhere/b.png")
    (tmp_path / "in/folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    assert scan(tmp_path / "in", None, Filters()).pictures == ["a.png", "linked.png"]


def test_a_pipe_is_not_opened(tree):
    root = tree("a.png")
    os.mkfifo(root / "b.png")
    assert scan(root, None, Filters()).pictures == ["a.png"]


def test_a_folder_that_may_not_be_read_is_named_and_the_rest_is_found(tree, monkeypatch):
    root = tree("a.png", "private/b.png", "z/c.png")
    really = os.scandir

    def scandir(path):
        if os.fspath(path).endswith("private"):
            raise PermissionError(13, "Permission denied")
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = scan(root, None, Filters())
    assert found.pictures == ["a.png", "z/c.png"]
    assert found.denied == [str(root / "private")]


def test_names_that_are_no_text_are_kept_as_they_are(tmp_path):
    name = os.fsdecode(b"caf\xe9 \xff 2.png")
    (tmp_path / name).write_bytes(b"x")
    (tmp_path / "写真.png").write_bytes(b"x")
    assert set(scan(tmp_path, None, Filters()).pictures) == {name, "写真.png"}
