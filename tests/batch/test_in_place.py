"""In place, results replace their sources, and every original can be brought back."""

import os

import pytest
from PIL import Image
from support.in_place import InPlaceSetup, states, without_links
from support.runs import Setup, counts, pixels_of, uninterrupted

from varfix.engine.errors import ExitCode, PlanError
from varfix.engine.events import ItemFail, ItemSkip, Warn

LONG_AGO = 1_111_111_111_123_456_700


@pytest.fixture(params=["hard links", "copies", "another folder"])
def place(request, tmp_path, monkeypatch):
    """A folder of images with modes and times of their own, and each way to keep originals."""
    source = tmp_path / "in"
    source.mkdir()
    if request.param == "copies":
        without_links(monkeypatch)
    backup = tmp_path / "kept" if request.param == "another folder" else None
    setup = InPlaceSetup(source, source, backup=backup)
    setup.draw("a.png", "b/c.jpg", "b/d.png")
    for number, path in enumerate(sorted(source.rglob("*.*"))):
        path.chmod(0o600 + number)
        os.utime(path, ns=(LONG_AGO + number, LONG_AGO + number))
    return setup


def expected_of(setup):
    return uninterrupted(Setup(setup.source, setup.source.parent / "out"))


def test_results_replace_images_and_undo_brings_back_bytes_modes_and_times(place):
    before, expected = states(place.source), expected_of(place)
    assert counts(place.run()) == (3, 0, 0, ExitCode.OK)
    assert place.results() == expected
    assert place.kept() == {name: data for name, (data, _, _) in before.items()}
    assert place.undo() == (3, 0, 0)
    assert states(place.source) == before
    assert place.kept() == {}
    assert counts(place.run()) == (3, 0, 0, ExitCode.OK)
    assert place.results() == expected


def test_nothing_is_restored_twice_and_new_images_are(place):
    place.run()
    once, kept = place.results(), place.kept()
    assert counts(place.run()) == (0, 3, 0, ExitCode.OK)
    assert counts(place.run(overwrite=True)) == (0, 3, 0, ExitCode.OK)
    place.draw("new.png")
    assert counts(place.run()) == (1, 3, 0, ExitCode.OK)
    assert {name: place.results()[name] for name in once} == once
    assert {name: place.kept()[name] for name in kept} == kept


def test_with_other_settings_images_are_restored_again_from_their_originals(place):
    before, expected = states(place.source), expected_of(place)
    place.run(plan=place.plan(recipe="first"))
    assert counts(place.run()) == (0, 3, 0, ExitCode.OK)
    assert [event.code for event in place.of(Warn)] == ["stale_outputs"]
    assert counts(place.run(overwrite=True)) == (3, 0, 0, ExitCode.OK)
    assert place.results() == expected  # a result inverted again would be the original
    assert counts(place.run()) == (0, 3, 0, ExitCode.OK)
    assert place.undo() == (3, 0, 0)
    assert states(place.source) == before


def test_what_the_user_has_changed_is_neither_restored_nor_undone(place):
    before = states(place.source)
    place.run()
    (place.source / "a.png").write_bytes(b"cropped")
    assert counts(place.run(plan=place.plan(recipe="other", overwrite=True)))[:3] == (2, 1, 0)
    assert [event.reason for event in place.of(ItemSkip)] == ["foreign"]
    (warning,) = place.of(Warn)
    expected = "1 image was changed after varfix restored it and is left alone"
    assert warning.message == expected
    assert place.undo() == (2, 1, 0)
    assert place.reports == [("a.png", "was changed after varfix restored it and is left alone")]
    assert (place.source / "a.png").read_bytes() == b"cropped"
    assert place.kept() == {"a.png": before["a.png"][0]}
    assert place.undo() == (0, 1, 0)
    assert place.undo(overwrite=True) == (1, 0, 0)
    assert states(place.source) == before


def test_a_change_of_the_same_size_between_the_edges_is_a_change(place):
    big = place.source / "big.bmp"
    Image.new("RGB", (1200, 800), "teal").save(big)
    place.run()
    data = bytearray(big.read_bytes())
    data[len(data) // 2] ^= 1
    big.write_bytes(data)
    assert place.undo() == (3, 1, 0)
    assert big.read_bytes() == data


def test_an_image_changed_during_the_run_is_not_replaced(place):
    place.run(plan=place.plan(recipe="first"))
    plan = place.plan(overwrite=True)
    (place.source / "a.png").write_bytes(b"cropped")
    assert counts(place.run(plan=plan))[:3] == (2, 0, 1)
    assert "was changed after varfix restored it" in place.of(ItemFail)[0].message
    assert (place.source / "a.png").read_bytes() == b"cropped"


def test_a_deleted_result_comes_back_as_its_original(place):
    before = states(place.source)
    place.run()
    (place.source / "b" / "c.jpg").unlink()
    (place.source / "b" / "d.png").unlink()
    (place.source / "b").rmdir()
    assert place.undo() == (3, 0, 0)
    assert states(place.source) == before


def test_without_their_originals_results_are_final(place):
    place.run()
    once = place.results()
    for name in place.kept():
        ((place.backup or place.source / ".varfix" / "originals") / name).unlink()
    plan = place.plan(recipe="other", overwrite=True)
    assert counts(place.run(plan=plan)) == (0, 3, 0, ExitCode.OK)
    assert [event.code for event in place.of(Warn)] == ["originals_gone"]
    assert place.results() == once


def test_an_image_that_fails_stays_as_it_is(place):
    (place.source / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    before = (place.source / "bad.png").stat()
    assert counts(place.run()) == (3, 0, 1, ExitCode.PARTIAL)
    assert (place.source / "bad.png").stat().st_ino == before.st_ino
    assert "bad.png" not in place.kept()


def test_videos_stay_and_are_counted(place):
    (place.source / "clip.mp4").write_bytes(b"frames")
    assert counts(place.run()) == (3, 0, 0, ExitCode.OK)
    assert "1 video is left alone" in place.of(Warn)[0].message
    assert (place.source / "clip.mp4").read_bytes() == b"frames"


def test_links_are_followed_stay_links_and_come_back(place, tmp_path):
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    Setup(outside, outside).draw("x.png")
    for name in ("l.png", "m.png"):
        (place.source / name).symlink_to(outside / "x.png")
    before = states(outside)
    assert counts(place.run()) == (4, 0, 0, ExitCode.OK)
    assert (place.source / "l.png").is_symlink()
    once = (outside / "x.png").read_bytes()
    assert once != before["x.png"][0]
    assert (pixels_of(once) == 255 - pixels_of(before["x.png"][0])).all()
    assert place.undo() == (4, 0, 0)
    assert (place.source / "l.png").is_symlink()
    assert states(outside) == before


def test_hard_links_are_named_and_joined_again(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    here = InPlaceSetup(source, source)
    here.draw("a.png")
    (tmp_path / "other.png").hardlink_to(source / "a.png")
    here.run()
    assert "another hard link keeps the file as it was" in here.of(Warn)[0].message
    assert not (tmp_path / "other.png").samefile(source / "a.png")
    here.undo()
    assert (tmp_path / "other.png").samefile(source / "a.png")


def test_originals_stay_in_one_folder(place, tmp_path):
    place.run()
    place.backup = None if place.backup else tmp_path / "second"
    with pytest.raises(PlanError, match=r"the originals of .* are in"):
        place.plan()


def test_originals_inside_the_folder_are_no_images(place):
    place.backup = place.source / "before"
    place.run()
    assert sorted(place.kept()) == ["a.png", "b/c.jpg", "b/d.png"]
    assert counts(place.run()) == (0, 3, 0, ExitCode.OK)


def test_a_file_of_the_user_among_the_originals_is_not_touched(place, tmp_path):
    place.backup = tmp_path / "mine"
    place.backup.mkdir()
    (place.backup / "a.png").write_bytes(b"mine")
    before = states(place.source)
    assert counts(place.run()) == (2, 0, 1, ExitCode.PARTIAL)
    assert "its original cannot be kept" in place.of(ItemFail)[0].message
    assert states(place.source)["a.png"] == before["a.png"]
    assert place.undo() == (2, 0, 0)
    assert (place.backup / "a.png").read_bytes() == b"mine"


def test_a_folder_that_contains_the_images_keeps_no_originals(place):
    for backup in (place.source, place.source.parent):
        place.backup = backup
        with pytest.raises(PlanError, match="--backup"):
            place.plan()


def test_a_run_that_would_restore_results_twice_is_refused(place):
    place.backup = None
    place.run()
    here = Setup(place.source, place.source)
    with pytest.raises(PlanError, match="would be restored twice"):
        here.plan(overwrite=True)


def test_without_a_journal_originals_come_back_on_demand(place):
    before = states(place.source)
    place.run()
    results = states(place.source)
    (place.source / ".varfix" / "originals.jsonl").write_bytes(b'[]\n{"name": 3}\n{"name": "a.p')
    if place.backup:  # files in a folder of the user count only with a line in the journal
        assert place.undo(overwrite=True) == (0, 0, 0)
        assert states(place.source) == results
    else:
        assert place.undo() == (0, 3, 0)
        assert place.undo(overwrite=True) == (3, 0, 0)
        assert states(place.source) == before


def test_nothing_outside_the_folder_is_written_by_a_journal(place, tmp_path):
    (tmp_path / "x.png").write_bytes(b"outside")
    place.run()
    journal = place.source / ".varfix" / "originals.jsonl"
    with journal.open("ab") as file:
        file.write(b'{"name": "../../../x.png", "sha256": "0", "folder": null}\n')
    assert place.undo()[0] == 3
    assert (tmp_path / "x.png").read_bytes() == b"outside"
