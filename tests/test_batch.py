"""A run restores a folder whatever befalls single pictures, and goes on where it was left."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
from PIL import Image

from varfix.engine import publish
from varfix.engine.batch import Options, restore_bytes, run_batch
from varfix.engine.errors import (
    DiskFullError,
    ExitCode,
    NonFiniteError,
    OutputDeniedError,
    OutputLockedError,
    PlanError,
)
from varfix.engine.events import ItemDone, ItemFail, ItemSkip, ItemStart, PlanDone, RunEnd, RunStart
from varfix.engine.lock import exclusive
from varfix.engine.plan import BatchRequest, plan_batch, plan_file
from varfix.engine.restorer import IdentityRestorer
from varfix.engine.settings import OutputSettings, Settings

DEFAULTS, EVERYTHING = Settings(), BatchRequest()


class Darker(IdentityRestorer):
    """A model whose result differs from its input."""

    def restore(self, tiles, prior):
        return tiles / 2


@dataclass
class Outcome:
    """What a run returned or raised, and what it told."""

    summary: object
    error: Exception | None
    events: list

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def sources(self, kind):
        by_id = {start.id: start.src for start in self.of(ItemStart)}
        return sorted(getattr(event, "src", None) or by_id[event.id] for event in self.of(kind))


def draw(path, seed=0, size=(24, 16), channels=3, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    top = np.iinfo(dtype).max + 1
    samples = np.random.default_rng(seed).integers(0, top, (size[1], size[0], channels), dtype)
    path.write_bytes(cv2.imencode(path.suffix, samples)[1].tobytes())
    return path


def samples(path):
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)


def go(source, destination, *, model=None, settings=DEFAULTS, request=EVERYTHING, **options):
    events = []
    plan = plan_batch(source, destination, request, settings, options.pop("recipe", "recipe"))
    summary = error = None
    try:
        summary = run_batch(
            plan,
            model or IdentityRestorer(),
            settings,
            events.append,
            Options("dir", "sha", **options),
        )
    except Exception as raised:
        error = raised
    return Outcome(summary, error, events)


def visible(folder):
    """All files that people see, by name."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "in"
    for number, name in enumerate(["1.png", "2.png", "b/3.png", "b/c/4.png", "b/c/10.png"]):
        draw(folder / name, number)
    return folder


# What is made


def test_a_tree_comes_back_with_its_names_and_its_pixels(photos, tmp_path):
    draw(photos / "sixteen.png", 7, dtype=np.uint16)
    draw(photos / "alpha.png", 8, channels=4)
    before = {path: path.read_bytes() for path in photos.rglob("*.png")}
    outcome = go(photos, tmp_path / "out")
    assert outcome.summary.exit_code is ExitCode.OK
    assert visible(tmp_path / "out") == visible(photos)
    for path, data in before.items():
        result = tmp_path / "out" / path.relative_to(photos)
        np.testing.assert_array_equal(samples(result), samples(path))
        assert path.read_bytes() == data


def test_many_pictures_all_come_out(tmp_path):
    for number in range(41):
        draw(tmp_path / "in" / f"{number}.png", number, size=(5, 3))
    outcome = go(tmp_path / "in", tmp_path / "out")
    assert outcome.summary.ok == len(visible(tmp_path / "out")) == 41


def test_the_story_of_a_run_is_told_in_order(photos, tmp_path):
    outcome = go(photos, tmp_path / "out")
    kinds = [type(event) for event in outcome.events]
    assert kinds[:2] == [RunStart, PlanDone] and kinds[-1] is RunEnd
    assert outcome.of(PlanDone)[0].items == 5
    assert outcome.of(PlanDone)[0].pixels == 5 * 24 * 16
    assert {event.id for event in outcome.of(ItemDone)} == set(range(5))
    for number in range(5):
        mine = [type(e) for e in outcome.events if getattr(e, "id", None) == number]
        assert mine[0] is ItemStart and mine[-1] is ItemDone
    end = outcome.events[-1]
    assert (end.status, end.exit, end.ok, end.failed) == ("ok", 0, 5, 0)


def test_a_pipe_is_restored_like_a_file(tmp_path):
    data = draw(tmp_path / "a.png").read_bytes()
    (tmp_path / "b.png").write_bytes(restore_bytes(data, IdentityRestorer(), Settings()))
    np.testing.assert_array_equal(samples(tmp_path / "b.png"), samples(tmp_path / "a.png"))


def test_one_file_needs_no_folder_of_its_own(tmp_path):
    source = draw(tmp_path / "a.png")
    plan = plan_file(source, tmp_path / "deep/b.png", False, Settings())
    summary = run_batch(plan, IdentityRestorer(), Settings(), [].append, Options("image", "sha"))
    assert summary.exit_code is ExitCode.OK
    assert visible(tmp_path) == ["a.png", "deep/b.png"]
    assert not list(tmp_path.rglob(".*"))


def test_one_file_is_not_replaced_unasked(tmp_path):
    source, target = draw(tmp_path / "a.png"), draw(tmp_path / "b.png", 1)
    with pytest.raises(PlanError, match="exists"):
        plan_file(source, target, False, Settings())
    assert plan_file(source, target, True, Settings()).items


def test_a_picture_listed_twice_is_made_once(photos, tmp_path):
    request = BatchRequest(files=("1.png", str(photos / "1.png"), "b/3.png"))
    assert go(photos, tmp_path / "out", request=request).summary.ok == 2
    assert visible(tmp_path / "out") == ["1.png", "b/3.png"]


def test_a_sample_is_spread_over_the_folder(tmp_path):
    for number in range(10):
        draw(tmp_path / "in" / f"{number}.png", size=(2, 2))
    go(tmp_path / "in", tmp_path / "out", request=BatchRequest(sample=2))
    assert visible(tmp_path / "out") == ["2.png", "7.png"]


# What fails


@pytest.fixture
def mixed(photos):
    """Five good pictures, an empty one, a truncated one, a text with a picture's name."""
    (photos / "empty.jpg").write_bytes(b"")
    whole = draw(photos / "cut.jpg", size=(300, 300)).read_bytes()
    (photos / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "text.png").write_text("hello")
    return photos


def test_bad_files_are_named_and_the_others_restored(mixed, tmp_path):
    outcome = go(mixed, tmp_path / "out")
    assert outcome.summary.exit_code is ExitCode.PARTIAL
    assert (outcome.summary.ok, outcome.summary.failed) == (5, 3)
    codes = {event.src: event.code for event in outcome.of(ItemFail)}
    assert codes == {
        "empty.jpg": "decode_empty",
        "cut.jpg": "decode_truncated",
        "text.png": "decode_unknown",
    }
    assert all(event.src in event.message for event in outcome.of(ItemFail))
    assert visible(tmp_path / "out") == ["1.png", "2.png", "b/3.png", "b/c/10.png", "b/c/4.png"]
    assert outcome.events[-1].status == "partial"


def test_fail_fast_ends_at_the_first_failure(mixed, tmp_path):
    for number in range(100, 160):
        draw(mixed / f"z{number}.png", size=(3, 3))
    outcome = go(mixed, tmp_path / "out", fail_fast=True)
    assert outcome.summary.exit_code is ExitCode.PARTIAL
    assert outcome.summary.ok < 60


@pytest.mark.parametrize("error", [NonFiniteError("invalid values"), KeyError("a bug")])
def test_a_model_that_fails_on_a_picture_fails_that_picture(photos, tmp_path, error):
    class Picky(IdentityRestorer):
        calls = 0

        def restore(self, tiles, prior):
            self.calls += 1
            if self.calls == 2:
                raise error
            return tiles

    outcome = go(photos, tmp_path / "out", model=Picky())
    assert (outcome.summary.ok, outcome.summary.failed) == (4, 1)
    assert len(visible(tmp_path / "out")) == 4


def test_a_source_that_vanishes_fails_alone(photos, tmp_path):
    plan = plan_batch(photos, tmp_path / "out", BatchRequest(), Settings(), "r")
    (photos / "2.png").unlink()
    summary = run_batch(plan, IdentityRestorer(), Settings(), [].append, Options("dir", "sha"))
    assert [failure.code for failure in summary.failures] == ["source_read"]
    assert summary.ok == 4


@pytest.mark.parametrize("obstacle", ["a folder in its place", "a name too long"])
def test_a_result_that_cannot_have_its_name_fails_alone(photos, tmp_path, obstacle):
    if obstacle == "a name too long":
        draw(photos / ("n" * 251 + ".bmp"))
        settings = Settings(output=OutputSettings(format="webp"))
    else:
        (tmp_path / "out").mkdir()
        (tmp_path / "out/b").write_text("a file where a folder has to be")
        (photos / "b/c/4.png").unlink()
        (photos / "b/c/10.png").unlink()
        draw(photos / "5.png")
        draw(photos / "6.png")
        settings = Settings()
    outcome = go(photos, tmp_path / "out", settings=settings)
    assert outcome.error is None
    assert (outcome.summary.failed, outcome.summary.exit_code) == (1, ExitCode.PARTIAL)
    assert outcome.summary.ok >= 4


# The destination refuses


def refusing(monkeypatch, number, after=0):
    """Make the system refuse to write results with an errno, `after` some were written."""
    really, count = publish._write, iter(range(1000))

    def write(part, data):
        if next(count) < after:
            return really(part, data)
        really(part, data[: len(data) // 2])
        raise OSError(number, os.strerror(number), str(part))

    monkeypatch.setattr(publish, "_write", write)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_ends_the_run_and_keeps_what_is_done(photos, tmp_path, monkeypatch, number):
    with monkeypatch.context() as patch:
        refusing(patch, number, after=2)
        outcome = go(photos, tmp_path / "out")
    assert isinstance(outcome.error, DiskFullError)
    assert outcome.error.exit_code is ExitCode.OUTPUT
    assert "2 of 5 done" in outcome.error.message + outcome.error.hint
    assert (outcome.events[-1].status, outcome.events[-1].exit) == ("failed", 6)
    assert len(visible(tmp_path / "out")) == 2
    assert not list((tmp_path / "out").rglob("*.part"))
    again = go(photos, tmp_path / "out")
    assert (again.summary.ok, again.summary.skipped) == (3, 2)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_destination_that_may_not_be_written_ends_the_run(photos, tmp_path, monkeypatch, number):
    refusing(monkeypatch, number)
    outcome = go(photos, tmp_path / "out")
    assert isinstance(outcome.error, OutputDeniedError)
    assert not visible(tmp_path / "out")


def test_two_runs_do_not_share_a_destination(photos, tmp_path):
    with exclusive(tmp_path / "out"):
        outcome = go(photos, tmp_path / "out")
        assert isinstance(outcome.error, OutputLockedError)
    assert go(photos, tmp_path / "out").summary.ok == 5


# Again


def test_the_same_command_again_does_nothing(photos, tmp_path):
    go(photos, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    outcome = go(photos, tmp_path / "out")
    assert (outcome.summary.ok, outcome.summary.skipped) == (0, 5)
    assert outcome.summary.exit_code is ExitCode.OK
    assert {event.reason for event in outcome.of(ItemSkip)} == {"done"}
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_new_or_lost_or_cut_picture_is_made_and_no_other(photos, tmp_path):
    go(photos, tmp_path / "out")
    draw(photos / "new.png")
    (tmp_path / "out/1.png").unlink()
    (tmp_path / "out/2.png").write_bytes((tmp_path / "out/2.png").read_bytes()[:40])
    assert go(photos, tmp_path / "out").sources(ItemDone) == ["1.png", "2.png", "new.png"]


def test_other_settings_leave_results_alone_until_told_to_overwrite(photos, tmp_path):
    go(photos, tmp_path / "out")
    outcome = go(photos, tmp_path / "out", recipe="other")
    assert {event.reason for event in outcome.of(ItemSkip)} == {"stale"}
    assert any("--overwrite" in getattr(event, "message", "") for event in outcome.events)
    request = BatchRequest(overwrite=True)
    again = go(photos, tmp_path / "out", recipe="other", request=request)
    assert again.summary.ok == 5


def test_a_strangers_file_is_never_replaced_unasked(photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/1.png").write_bytes(b"precious")
    outcome = go(photos, tmp_path / "out")
    assert outcome.summary.ok == 4
    assert [event.reason for event in outcome.of(ItemSkip)] == ["foreign"]
    assert (tmp_path / "out/1.png").read_bytes() == b"precious"
    go(photos, tmp_path / "out", request=BatchRequest(overwrite=True))
    np.testing.assert_array_equal(samples(tmp_path / "out/1.png"), samples(photos / "1.png"))


def test_in_place_no_picture_is_restored_twice(photos):
    before = samples(photos / "1.png")
    request = BatchRequest(overwrite=True)
    for _ in range(3):
        go(photos, photos, model=Darker(), request=request)
    np.testing.assert_allclose(samples(photos / "1.png"), before / 2, atol=0.51)


def test_a_destination_inside_the_source_does_not_feed_on_itself(photos):
    for _ in range(2):
        go(photos, photos / "out")
    assert visible(photos / "out") == ["1.png", "2.png", "b/3.png", "b/c/10.png", "b/c/4.png"]


def test_a_stop_finishes_the_picture_at_hand_and_the_rest_comes_next_time(photos, tmp_path):
    stop = threading.Event()

    class Stopper(IdentityRestorer):
        def restore(self, tiles, prior):
            stop.set()
            return tiles

    outcome = go(photos, tmp_path / "out", model=Stopper(), stop=stop)
    assert outcome.summary.ok == 1
    assert outcome.events[-1].status == "stopped"
    assert len(visible(tmp_path / "out")) == 1
    again = go(photos, tmp_path / "out")
    assert (again.summary.ok, again.summary.skipped) == (4, 1)


SLOW_RUN = """
import os, sys, time
from pathlib import Path
from varfix.engine import publish
from varfix.engine.batch import Options, run_batch
from varfix.engine.plan import BatchRequest, plan_batch
from varfix.engine.restorer import IdentityRestorer
from varfix.engine.settings import Settings

really = os.fsync
def slow(number):
    time.sleep(0.15)
    really(number)
os.fsync = slow
plan = plan_batch(Path(sys.argv[1]), Path(sys.argv[2]), BatchRequest(), Settings(), "recipe")
run_batch(plan, IdentityRestorer(), Settings(), lambda event: None, Options("dir", "sha"))
"""


def killed_while_writing(source, destination):
    """Run in a process, and kill it as soon as results are there and others half written."""
    process = subprocess.Popen([sys.executable, "-c", SLOW_RUN, source, destination])
    try:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and process.poll() is None:
            if visible(destination) and list(destination.rglob("*.part")):
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL")
def test_a_killed_run_leaves_no_broken_result_and_goes_on(tmp_path):
    source, destination = tmp_path / "in", tmp_path / "out"
    destination.mkdir()
    for number in range(24):
        draw(source / f"{number}.png", number, size=(120, 90))
    killed_while_writing(source, destination)
    finished = visible(destination)
    assert 0 < len(finished) < 24
    assert list(destination.rglob("*.part"))
    for name in finished:
        with Image.open(destination / name) as picture:
            picture.load()
    outcome = go(source, destination)
    assert outcome.summary.skipped == len(finished)
    assert outcome.summary.ok == 24 - len(finished)
    assert {event.reason for event in outcome.of(ItemSkip)} == {"done"}
    assert not list(destination.rglob("*.part"))
    for name in visible(source):
        np.testing.assert_array_equal(samples(destination / name), samples(source / name))
