"""How a folder compares names is measured, not guessed."""

import os
import sys
from pathlib import Path

import pytest

from varfix.engine.batch.case_collisions import casefolded, detect_comparison, exact, may_collide

COMPOSED, APART = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize(
    ("names", "collide"),
    [
        (["a", "b"], False),
        (["a", "A"], True),
        ([COMPOSED, APART], True),
        ([COMPOSED.upper(), APART], True),
        (["e", "\u00e9"], False),
        ([], False),
    ],
)
def test_collisions_among_names_are_found(names, collide):
    assert may_collide(names) == collide


def test_names_that_are_not_text_are_compared_too():
    odd = os.fsdecode(b"\xff\xc3.PNG")
    assert not may_collide([odd, os.fsdecode(b"\xff\xc4.png")])
    assert casefolded(odd) == casefolded(os.fsdecode(b"\xff\xc3.png"))


def test_the_folder_is_probed_and_stays_as_it_was(tmp_path):
    (tmp_path / "Aa").touch()
    key_of = detect_comparison(tmp_path)
    assert (key_of("Aa") == key_of("aA")) == (tmp_path / "aA").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["Aa"]


def test_a_missing_folder_compares_as_its_parent(tmp_path, monkeypatch):
    seen = []
    real = Path.open
    monkeypatch.setattr(Path, "open", lambda path, *a: seen.append(path.parent) or real(path, *a))
    detect_comparison(tmp_path / "not" / "there")
    assert seen == [tmp_path]


class Disk:
    """A file system that finds files by other names as well."""

    def __init__(self, monkeypatch, *, cased, composed):
        self.cased, self.composed = cased, composed
        monkeypatch.setattr(Path, "exists", lambda path: self.finds(path))

    def finds(self, path):
        names = {self.key(other.name) for other in path.parent.iterdir()}
        return self.key(path.name) in names

    def key(self, name):
        import unicodedata

        name = name.casefold() if self.cased else name
        return unicodedata.normalize("NFC", name) if self.composed else name


@pytest.mark.parametrize("cased", [True, False])
@pytest.mark.parametrize("composed", [True, False])
def test_every_kind_of_file_system_is_recognized(tmp_path, monkeypatch, cased, composed):
    Disk(monkeypatch, cased=cased, composed=composed)
    key_of = detect_comparison(tmp_path)
    assert (key_of("A.jpg") == key_of("a.JPG")) == cased
    assert (key_of(COMPOSED) == key_of(APART)) == composed
    assert key_of("a") != key_of("b")


@pytest.mark.parametrize(
    ("platform", "same"), [("linux", False), ("win32", True), ("darwin", True)]
)
def test_a_read_only_folder_compares_as_usual_on_the_system(tmp_path, monkeypatch, platform, same):
    def refuse(*arguments):
        raise PermissionError

    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(sys, "platform", platform)
    key_of = detect_comparison(tmp_path)
    assert (key_of("a") == key_of("A")) == same
    assert (key_of is exact) == (not same)
