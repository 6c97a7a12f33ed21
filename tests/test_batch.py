"""A run restores what it can, tells what happens, and can be repeated after anything."""

import errno
import io
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image, ImageOps

from varfix.engine.batch import run_batch
from varfix.engine.errors import (
    DeviceMemoryError,
    DiskFullError,
    ExitCode,
    ModelContractError,
    NonFiniteError,
    OutputDeniedError,
    OutputLockedError,
)
from varfix.engine.events import (
    ItemDone,
    ItemFail,
    ItemProgress,
    ItemSkip,
    ItemStart,
    PlanDone,
    RunEnd,
    RunStart,
    Warn,
    encode,
)
from varfix.engine.lock import exclusive
from varfix.engine.options import Options
from varfix.engine.plan import BatchRequest, plan_batch, plan_file
from varfix.engine.restorer import IdentityRestorer, Retries
from varfix.engine.settings import IoSettings, OutputSettings, Settings
from varfix.engine.stop import StopRequest

SETTINGS = Settings(io=IoSettings(jobs=2))
ORIENTATION, ARTIST = 0x0112, 0x013B


@dataclass
class Inverter(IdentityRestorer):
    """Inverts colours: unlike the identity's, its work shows."""

    def restore(self, tiles, prior):
        return 1.0 - tiles


@dataclass
class Setup:
    """A source folder, a destination, and runs between them."""

    source: object
    out: object
    events: list = field(default_factory=list)

    def draw(self, *names, **save):
        for name in names:
            path = self.source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(sum(name.encode()))
            pixels = rng.integers(0, 256, (9, 14, 3), np.uint8)
            Image.fromarray(pixels).save(path, **save)

    def plan(self, settings=SETTINGS, recipe="recipe", **request):
        return plan_batch(self.source, self.out, BatchRequest(**request), settings, recipe)

    def run(self, restorer=None, settings=SETTINGS, plan=None, options=None, **request):
        self.events.clear()
        plan = plan or self.plan(settings, **request)
        options = options or Options("dir", "sha")
        return run_batch(plan, restorer or Inverter(), settings, self.events.append, options)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def results(self):
        return {
            path.relative_to(self.out).as_posix(): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file() and ".varfix" not in path.parts
        }


@pytest.fixture
def setup(tmp_path):
    (tmp_path / "in").mkdir()
    return Setup(tmp_path / "in", tmp_path / "out")


def counts(summary):
    return summary.ok, summary.skipped, summary.failed, summary.exit_code


def opened(path):
    return Image.open(io.BytesIO(path.read_bytes()))


def pixels_of(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_every_picture_is_restored_under_its_name(setup):
    setup.draw("a.png", "b/c.png", "b/d.bmp")
    assert counts(setup.run()) == (3, 0, 0, ExitCode.OK)
    results = setup.results()
    assert sorted(results) == ["a.png", "b/c.png", "b/d.bmp"]
    for name, data in results.items():
        source = pixels_of((setup.source / name).read_bytes())
        assert np.array_equal(pixels_of(data), 255 - source)


def test_inputs_are_never_changed(setup):
    setup.draw("a.png", "b/c.jpg")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in setup.source.rglob("*.*")}
    setup.run()
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before}


def test_a_corrupt_file_costs_itself_alone_and_the_exit_code(setup):
    setup.draw("a.png", "b.jpg", "d.png")
    data = (setup.source / "b.jpg").read_bytes()
    (setup.source / "b.jpg").write_bytes(data[: len(data) // 2])
    (setup.source / "c.jpg").write_bytes(b"")
    (setup.source / "e.png").write_bytes(b"just text")
    summary = setup.run()
    assert counts(summary) == (2, 0, 3, ExitCode.PARTIAL)
    assert sorted(setup.results()) == ["a.png", "d.png"]
    codes = {event.src: event.code for event in summary.failures}
    assert codes == {
        "b.jpg": "decode_truncated",
        "c.jpg": "decode_empty",
        "e.png": "decode_unknown",
    }
    for event in summary.failures:
        assert event.message.startswith(f"{setup.source / event.src}: ")
    assert setup.of(ItemFail) == list(summary.failures)


def test_failures_are_tried_again_and_successes_are_not(setup):
    setup.draw("a.png", "b.png")
    good = (setup.source / "b.png").read_bytes()
    (setup.source / "b.png").write_bytes(good[:40])
    assert counts(setup.run()) == (1, 0, 1, ExitCode.PARTIAL)
    assert counts(setup.run()) == (0, 1, 1, ExitCode.PARTIAL)
    (setup.source / "b.png").write_bytes(good)
    assert counts(setup.run()) == (1, 1, 0, ExitCode.OK)


def test_metadata_and_orientation_are_each_pictures_own(setup):
    names = ["a.jpg", "b.jpg", "c.jpg", "d.png"]
    for turn, name in enumerate(names, 5):
        exif = Image.Exif()
        exif[ORIENTATION], exif[ARTIST] = turn, f"artist of {name}"
        setup.draw(name, exif=exif)
    assert setup.run(IdentityRestorer()).ok == 4
    for name, data in setup.results().items():
        exif = Image.open(io.BytesIO(data)).getexif()
        assert exif[ARTIST] == f"artist of {name}"
        assert exif.get(ORIENTATION, 1) == 1
        upright = ImageOps.exif_transpose(opened(setup.source / name))
        assert Image.open(io.BytesIO(data)).size == upright.size
    png = np.asarray(ImageOps.exif_transpose(opened(setup.source / "d.png")))
    assert np.array_equal(pixels_of(setup.results()["d.png"]), png)


def test_the_same_stem_and_the_same_name_elsewhere_make_results_of_their_own(setup):
    setup.draw("a.png", "a.jpg", "x/a.png", "y/a.png")
    settings = replace_output(format="png")
    assert setup.run(settings=settings).ok == 4
    assert sorted(setup.results()) == ["a.png", "a.png.png", "x/a.png", "y/a.png"]
    assert len(set(setup.results().values())) == 4


def test_names_that_collide_across_folders_are_kept_apart_and_no_input_is_lost(setup):
    setup.draw("a/x.png", "b/x.png")
    assert setup.run(name="{stem}{ext}").ok == 2
    assert len(set(setup.results().values())) == 2
    assert (setup.source / "a" / "x.png").exists() and (setup.source / "b" / "x.png").exists()
    assert counts(setup.run(name="{stem}{ext}")) == (0, 2, 0, ExitCode.OK)


def replace_output(**output):
    return Settings(io=SETTINGS.io, output=OutputSettings(**output))


# Repeating a run


def test_a_repeated_run_skips_what_is_done(setup):
    setup.draw("a.png", "b/c.png")
    setup.run()
    before = setup.results()
    assert counts(setup.run()) == (0, 2, 0, ExitCode.OK)
    assert [(e.src, e.reason) for e in setup.of(ItemSkip)] == [
        ("a.png", "done"),
        ("b/c.png", "done"),
    ]
    assert setup.results() == before
    (plan,) = setup.of(PlanDone)
    assert (plan.items, plan.skip_done, plan.skip_stale, plan.skip_foreign) == (0, 2, 0, 0)


def test_a_new_picture_is_all_that_a_repeated_run_restores(setup):
    setup.draw("a.png")
    setup.run()
    setup.draw("b.png")
    assert counts(setup.run()) == (1, 1, 0, ExitCode.OK)
    assert [event.src for event in setup.of(ItemStart)] == ["b.png"]


def test_other_settings_leave_results_stale_until_asked_to_overwrite(setup):
    setup.draw("a.png", "b.png")
    setup.run()
    before = setup.results()
    summary = setup.run(IdentityRestorer(), plan=setup.plan(recipe="other"))
    assert counts(summary) == (0, 2, 0, ExitCode.OK)
    assert [event.code for event in setup.of(Warn)] == ["stale_outputs"]
    assert setup.of(Warn)[0].message.startswith("2 outputs were made with other settings")
    assert setup.results() == before
    plan = setup.plan(recipe="other", overwrite=True)
    assert counts(setup.run(IdentityRestorer(), plan=plan)) == (2, 0, 0, ExitCode.OK)
    assert setup.results() != before
    assert setup.plan(recipe="other").skipped("done") == 2


def test_a_changed_source_makes_its_result_stale(setup):
    setup.draw("a.png", "b.png")
    setup.run()
    os.utime(setup.source / "b.png", (1, 1))
    assert counts(setup.run()) == (0, 2, 0, ExitCode.OK)
    assert [event.reason for event in setup.of(ItemSkip)] == ["done", "stale"]
    assert counts(setup.run(overwrite=True)) == (1, 1, 0, ExitCode.OK)


def test_a_lost_or_truncated_result_is_made_again(setup):
    setup.draw("a.png", "b.png", "c.png")
    setup.run()
    before = setup.results()
    (setup.out / "a.png").unlink()
    (setup.out / "b.png").write_bytes(before["b.png"][:50])
    assert counts(setup.run()) == (2, 1, 0, ExitCode.OK)
    assert setup.results() == before


def test_files_that_varfix_did_not_make_are_never_replaced_unasked(setup):
    setup.draw("a.png")
    setup.out.mkdir()
    (setup.out / "a.png").write_bytes(b"mine")
    assert counts(setup.run()) == (0, 1, 0, ExitCode.OK)
    assert [event.code for event in setup.of(Warn)] == ["foreign_outputs"]
    assert setup.results() == {"a.png": b"mine"}
    assert counts(setup.run(overwrite=True)) == (1, 0, 0, ExitCode.OK)
    assert setup.results() != {"a.png": b"mine"}


def test_a_destination_inside_the_source_is_not_restored_again(setup):
    setup.draw("a.png", "b/c.png")
    setup.out = setup.source / "out"
    assert setup.run().ok == 2
    assert counts(setup.run()) == (0, 2, 0, ExitCode.OK)
    assert sorted(setup.results()) == ["a.png", "b/c.png"]


def test_in_place_nothing_is_restored_twice(setup):
    setup.draw("a.png", "b/c.png")
    setup.out = setup.source
    originals = setup.results()
    assert setup.run(overwrite=True).ok == 2
    once = setup.results()
    assert once != originals
    assert counts(setup.run(overwrite=True)) == (0, 2, 0, ExitCode.OK)
    assert setup.results() == once
    setup.draw("new.png")
    assert counts(setup.run(overwrite=True)) == (1, 2, 0, ExitCode.OK)


def test_in_place_results_in_another_format_are_no_new_sources(setup):
    setup.draw("a.jpg", "a.png")
    setup.out = setup.source
    originals = setup.results()
    settings = replace_output(format="png")
    assert setup.run(settings=settings, overwrite=True).ok == 2
    once = setup.results()
    assert sorted(once) == ["a.jpg", "a.jpg.png", "a.png"]
    assert once["a.jpg"] == originals["a.jpg"]
    assert np.array_equal(pixels_of(once["a.png"]), 255 - pixels_of(originals["a.png"]))
    assert counts(setup.run(settings=settings, overwrite=True)) == (0, 2, 0, ExitCode.OK)
    assert setup.results() == once


# Kills

KILLS = {
    "while bytes are written": """
def die(part, data):
    part.write_bytes(data[: len(data) // 2])
    kill()
arm(publish, "_write", die)
""",
    "before the final name": """
arm(Path, "replace", lambda part, target: kill())
""",
    "after the final name": """
real = Path.replace
def die(part, target):
    real(part, target)
    kill()
arm(Path, "replace", die)
""",
    "while the manifest is written": """
def die(manifest, entry):
    path = manifest.destination / ".varfix" / "run.jsonl"
    with path.open("ab") as file:
        file.write(b'{"dst": "half')
    kill()
arm(Manifest, "append", die)
""",
    "after an entry": """
entered = Manifest.append
def die(manifest, entry):
    entered(manifest, entry)
    kill()
arm(Manifest, "append", die)
""",
}

CHILD = """
import os, signal, sys, time
from pathlib import Path
from varfix.engine import publish
from varfix.engine.batch import run_batch
from varfix.engine.options import Options
from varfix.engine.manifest import Manifest
from varfix.engine.plan import BatchRequest, plan_batch
from varfix.engine.restorer import IdentityRestorer
from varfix.engine.settings import IoSettings, Settings

source, out, overwrite, recipe, pause = sys.argv[1:]

class Inverter(IdentityRestorer):
    def restore(self, tiles, prior):
        time.sleep(float(pause))
        return 1.0 - tiles

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def arm(owner, name, deadly):
    real, calls = getattr(owner, name), []
    def call(*arguments):
        calls.append(1)
        return (deadly if len(calls) == 4 else real)(*arguments)
    setattr(owner, name, call)

#KILL#
settings = Settings(io=IoSettings(jobs=2))
request = BatchRequest(overwrite=overwrite == "yes")
plan = plan_batch(Path(source), Path(out), request, settings, recipe)
print("planned", flush=True)
run_batch(plan, Inverter(), settings, lambda event: None, Options("dir", "sha"))
"""


def child(setup, kill="", overwrite=False, recipe="recipe", pause=0.0):
    script = CHILD.replace("#KILL#", kill)
    facts = [setup.source, setup.out, "yes" if overwrite else "no", recipe, pause]
    command = [sys.executable, "-c", script, *map(str, facts)]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def killed(setup, **facts):
    with child(setup, **facts) as process:
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def unbroken(setup, **facts):
    """What a run without interruption makes of the same sources."""
    other = Setup(setup.source, setup.out.with_name("unbroken"))
    other.run(**facts)
    return other.results()


def assert_nothing_partial(setup, expected):
    for name, data in setup.results().items():
        if not name.rpartition("/")[2].startswith("."):
            assert data == expected[name]


KILLABLE = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")


@KILLABLE
@pytest.mark.parametrize("moment", KILLS)
def test_after_kill_9_the_same_command_ends_as_if_nothing_had_happened(setup, moment):
    setup.draw(*(f"{number % 3}/{number}.png" for number in range(9)))
    expected = unbroken(setup)
    killed(setup, kill=KILLS[moment])
    assert 0 < len(setup.results()) < 9
    assert_nothing_partial(setup, expected)
    summary = setup.run()
    assert summary.ok + summary.skipped == 9
    assert summary.ok >= 4
    assert setup.results() == expected
    assert not list(setup.out.rglob(".*.part"))
    again = setup.plan()
    assert (len(again.items), again.skipped("done")) == (0, 9)


@KILLABLE
@pytest.mark.parametrize("moment", ["while bytes are written", "before the final name"])
def test_killed_while_replacing_the_older_result_stays_whole(setup, moment):
    setup.draw(*(f"{number}.bmp" for number in range(6)))  # old and new have the same size
    setup.run(IdentityRestorer())
    older = setup.results()
    expected = unbroken(setup)
    killed(setup, kill=KILLS[moment], overwrite=True, recipe="other")
    for name, data in setup.results().items():
        if not name.startswith("."):
            assert data in (older[name], expected[name])
    setup.run(plan=setup.plan(recipe="other", overwrite=True))
    assert setup.results() == expected


@KILLABLE
def test_after_kill_9_in_place_nothing_is_restored_twice(setup):
    setup.draw(*(f"{number}.png" for number in range(6)))
    expected = unbroken(setup)
    setup.out = setup.source
    killed(setup, kill=KILLS["before the final name"], overwrite=True)
    setup.run(overwrite=True)
    assert setup.results() == expected


@KILLABLE
def test_killed_at_any_moment_and_repeated_until_done(setup):
    setup.draw(*(f"{number}.png" for number in range(8)))
    expected = unbroken(setup)
    for delay in (0.0, 0.05, 0.12):
        with child(setup, pause=0.04) as process:
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
        assert_nothing_partial(setup, expected)
    assert setup.run().failed == 0
    assert setup.results() == expected


# What ends a run


def full_after(count, monkeypatch):
    """Let the disk be full after so many files; the event is set when it is."""
    real, calls, full = os.fsync, itertools.count(), threading.Event()

    def fsync(descriptor):
        if next(calls) >= count:
            full.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return full


def test_a_full_disk_ends_the_run_keeps_what_is_done_and_can_be_continued(setup, monkeypatch):
    setup.draw(*(f"{number}.png" for number in range(30)))
    expected = unbroken(setup)
    full = full_after(3, monkeypatch)

    @dataclass
    class Waiting(Inverter):
        calls: int = 0

        def restore(self, tiles, prior):
            self.calls += 1
            if self.calls == 8:
                assert full.wait(20)
                time.sleep(0.1)  # until the pipeline knows
            return super().restore(tiles, prior)

    with pytest.raises(DiskFullError) as caught:
        setup.run(Waiting())
    assert caught.value.exit_code == ExitCode.OUTPUT == 6
    assert caught.value.hint.startswith("3 of 30 done; free space")
    kept = setup.results()
    assert len(kept) == 3
    assert kept.items() <= expected.items()
    (end,) = setup.of(RunEnd)
    assert (end.status, end.exit, end.ok) == ("failed", 6, 3)
    assert len(setup.of(ItemStart)) < 20
    monkeypatch.undo()
    assert counts(setup.run()) == (27, 3, 0, ExitCode.OK)
    assert setup.results() == expected


def test_a_disk_that_is_really_full_can_be_continued(setup, tmp_path):
    setup.out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(setup.out)]
    try:
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("may not mount a file system")
    except OSError:
        pytest.skip("may not mount a file system")
    try:
        for number in range(6):
            big = np.random.default_rng(number).integers(0, 256, (80, 100, 3), np.uint8)
            Image.fromarray(big).save(setup.source / f"{number}.png")
        with pytest.raises(DiskFullError):
            setup.run()
        kept = setup.results()
        assert 0 < len(kept) < 6
        for name, data in kept.items():
            assert np.array_equal(
                pixels_of(data), 255 - pixels_of((setup.source / name).read_bytes())
            )
        subprocess.run(["mount", "-o", "remount,size=1m", str(setup.out)], check=True)
        assert counts(setup.run()) == (6 - len(kept), len(kept), 0, ExitCode.OK)
    finally:
        subprocess.run(["umount", str(setup.out)], check=True)


def test_a_denied_destination_ends_the_run(setup, monkeypatch):
    setup.draw("a.png")

    def refuse(*_):
        raise OSError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OutputDeniedError):
        setup.run()


def test_a_name_that_the_destination_cannot_hold_costs_one_picture(setup):
    setup.draw("a.png", "b.png")
    (setup.out / "b.png").mkdir(parents=True)
    assert counts(setup.run(overwrite=True)) == (1, 0, 1, ExitCode.PARTIAL)
    assert setup.of(ItemFail)[0].code == "encode_failed"


def test_two_runs_do_not_write_to_one_destination(setup):
    setup.draw("a.png")
    plan = setup.plan()
    with exclusive(setup.out), pytest.raises(OutputLockedError) as caught:
        setup.run(plan=plan)
    assert caught.value.exit_code == 6
    assert setup.events == []
    assert setup.results() == {}
    assert setup.run().ok == 1


@pytest.mark.parametrize(
    "error", [DeviceMemoryError("out of memory at batch 1"), ModelContractError("graph failed")]
)
def test_a_lost_device_or_broken_model_ends_the_run_with_everything_finished_kept(setup, error):
    @dataclass
    class Lost(Inverter):
        left: int = 2

        def restore(self, tiles, prior):
            self.left -= 1
            if self.left < 0:
                raise error
            return super().restore(tiles, prior)

    setup.draw(*(f"{number}.png" for number in range(9)))
    with pytest.raises(type(error)):
        setup.run(Lost())
    assert sorted(setup.results()) == ["0.png", "1.png"]
    (end,) = setup.of(RunEnd)
    assert (end.status, end.exit, end.ok) == ("failed", int(error.exit_code), 2)
    assert setup.plan().skipped("done") == 2


def test_invalid_values_cost_one_picture(setup):
    @dataclass
    class Odd(Inverter):
        calls: int = 0

        def restore(self, tiles, prior):
            self.calls += 1
            if self.calls == 2:
                raise NonFiniteError("the model produced invalid values in tile 0 even in fp32.")
            return super().restore(tiles, prior)

    setup.draw("a.png", "b.png", "c.png")
    assert counts(setup.run(Odd())) == (2, 0, 1, ExitCode.PARTIAL)
    assert sorted(setup.results()) == ["a.png", "c.png"]
    assert setup.of(ItemFail)[0].code == "model_nonfinite"


def test_a_picture_that_does_not_fit_into_memory_costs_itself_and_exit_5(setup):
    @dataclass
    class Small(Inverter):
        calls: int = 0

        def restore(self, tiles, prior):
            self.calls += 1
            if self.calls == 1:
                raise MemoryError
            return super().restore(tiles, prior)

    setup.draw("a.png", "b.png")
    assert counts(setup.run(Small())) == (1, 0, 1, ExitCode.DEVICE)
    assert setup.of(ItemFail)[0].code == "host_oom"
    assert setup.of(ItemFail)[0].retryable


def test_an_unforeseen_error_costs_one_picture_and_is_told_by_its_kind(setup):
    @dataclass
    class Buggy(Inverter):
        calls: int = 0

        def restore(self, tiles, prior):
            self.calls += 1
            return tiles[:, :5] if self.calls == 1 else super().restore(tiles, prior)

    setup.draw("a.png", "b.png")
    assert counts(setup.run(Buggy())) == (1, 0, 1, ExitCode.PARTIAL)
    assert "ValueError" in setup.of(ItemFail)[0].message


def test_a_source_that_vanishes_after_planning_costs_itself(setup):
    setup.draw("a.png", "b.png")
    plan = setup.plan()
    (setup.source / "a.png").unlink()
    assert counts(setup.run(plan=plan)) == (1, 0, 1, ExitCode.PARTIAL)
    (failure,) = setup.of(ItemFail)
    assert (failure.code, failure.retryable) == ("source_read", True)


def test_fail_fast_stops_at_the_first_failure(setup):
    setup.draw(*(f"{number}.png" for number in range(20)))
    (setup.source / "0.png").write_bytes(b"broken")
    summary = setup.run(options=Options("dir", "sha", fail_fast=True))
    assert (summary.failed, summary.exit_code) == (1, ExitCode.PARTIAL)
    assert summary.ok < 10


def test_a_stop_finishes_what_is_in_flight_and_a_repeated_run_does_the_rest(setup):
    stop = StopRequest()

    @dataclass
    class Stopping(Inverter):
        calls: int = 0

        def restore(self, tiles, prior):
            self.calls += 1
            if self.calls == 3:
                stop.ask(ExitCode.SIGTERM)
            return super().restore(tiles, prior)

    setup.draw(*(f"{number}.png" for number in range(20)))
    summary = setup.run(Stopping(), options=Options("dir", "sha", stop=stop))
    assert summary.ok == len(setup.results()) == 3
    (end,) = setup.of(RunEnd)
    assert (end.status, end.exit) == ("stopped", ExitCode.SIGTERM)
    assert summary.exit_code == ExitCode.SIGTERM
    assert counts(setup.run()) == (17, 3, 0, ExitCode.OK)


def test_a_stop_after_the_last_picture_changes_nothing(setup):
    stop = StopRequest()

    class Late(Inverter):
        def restore(self, tiles, prior):
            stop.ask(ExitCode.SIGTERM)
            return super().restore(tiles, prior)

    setup.draw("a.png")
    assert counts(setup.run(Late(), options=Options("dir", "sha", stop=stop))) == (
        1,
        0,
        0,
        ExitCode.OK,
    )
    assert setup.of(RunEnd)[0].status == "ok"


# What is told


def test_events_come_in_order(setup):
    setup.draw("a.png", "b.png", "c.png")
    setup.run()
    (setup.out / "b.png").unlink()
    (setup.source / "d.png").write_bytes(b"broken")
    summary = setup.run(IdentityRestorer())
    assert isinstance(setup.events[0], RunStart)
    assert isinstance(setup.events[1], PlanDone)
    assert [type(event) for event in setup.events[2:4]] == [ItemSkip, ItemSkip]
    assert isinstance(setup.events[-1], RunEnd)
    kinds = Counter(type(event) for event in setup.events)
    assert kinds == {
        RunStart: 1,
        PlanDone: 1,
        ItemSkip: 2,
        ItemStart: 2,
        ItemProgress: 1,
        ItemDone: 1,
        ItemFail: 1,
        RunEnd: 1,
    }
    for number in {event.id for event in setup.of(ItemStart)}:
        mine = [e for e in setup.events if getattr(e, "id", None) == number]
        assert isinstance(mine[0], ItemStart)
        assert isinstance(mine[-1], (ItemDone, ItemFail))
    end = setup.events[-1]
    assert (end.status, end.exit, end.ok, end.skipped, end.failed) == ("partial", 1, 1, 2, 1)
    assert (summary.ok, summary.skipped, summary.failed) == (1, 2, 1)


def test_the_first_events_say_what_runs_and_what_will_be_done(setup):
    setup.draw("a.png", "b.png")
    setup.run(options=Options("dir", "digest"))
    start, plan = setup.events[:2]
    assert (start.command, start.model.name, start.model.sha256) == ("dir", "identity", "digest")
    assert (start.device.used, start.device.precision, start.tile, start.batch) == (
        "cpu",
        "fp32",
        64,
        4,
    )
    assert (plan.items, plan.pixels) == (2, 2 * 9 * 14)


def test_a_finished_picture_tells_its_stages_bytes_and_retries(setup):
    @dataclass
    class Retrying(Inverter):
        def restore(self, tiles, prior):
            self.retries = replace(self.retries, fp32=self.retries.fp32 + 2, oom=1)
            return super().restore(tiles, prior)

    setup.draw("a.png", "b.png")
    setup.run(Retrying(retries=Retries(fp32=5)))
    first, second = sorted(setup.of(ItemDone), key=lambda event: event.id)
    assert set(first.stage) == {"decode", "infer", "encode"}
    assert first.seconds == pytest.approx(sum(first.stage.values()), abs=2e-4)
    assert first.bytes == (setup.out / "a.png").stat().st_size
    assert (first.retries.fp32, first.retries.oom) == (2, 1)
    assert (second.retries.fp32, second.retries.oom) == (2, 0)


def test_progress_is_told_at_most_twice_a_second(setup, monkeypatch):
    setup.source.mkdir(exist_ok=True)
    Image.new("RGB", (600, 500), 90).save(setup.source / "a.png")

    class Slow(Inverter):
        def restore(self, tiles, prior):
            time.sleep(0.02)
            return super().restore(tiles, prior)

    setup.run(Slow(batch=2))
    told = setup.of(ItemProgress)
    (done,) = setup.of(ItemDone)
    assert 1 <= len(told) <= 1 + 2 * done.stage["infer"]
    assert told[-1].done == told[-1].total > 100


def test_shares_of_time_are_shares(setup):
    setup.draw(*(f"{number}.png" for number in range(10)))
    setup.run()
    busy = setup.of(RunEnd)[0].busy
    assert set(busy) == {"decode", "infer", "encode"}
    assert all(0.0 <= share <= 1.0 for share in busy.values())


def test_names_that_are_no_text_can_be_told(setup):
    setup.draw("x.png")
    try:
        (setup.source / "x.png").rename(setup.source / os.fsdecode(b"caf\xe9.png"))
    except OSError:
        pytest.skip("this file system wants UTF-8")
    (setup.source / os.fsdecode(b"br\xff.png")).write_bytes(b"broken")
    assert counts(setup.run()) == (1, 0, 1, ExitCode.PARTIAL)
    lines = [encode(event, "r", datetime.now(UTC)) for event in setup.events]
    assert any(rb"caf\\xe9.png" in line for line in lines)


def test_what_a_format_cannot_hold_is_a_warning_of_that_picture(setup):
    setup.draw("a.png")
    deep = np.random.default_rng(0).integers(0, 65536, (9, 14), np.uint16)
    Image.fromarray(deep).save(setup.source / "deep.png")
    setup.run(settings=replace_output(format="webp"))
    (warning,) = setup.of(Warn)
    (start,) = (event for event in setup.of(ItemStart) if event.src == "deep.png")
    assert (warning.code, warning.id) == ("metadata", start.id)
    assert warning.message.startswith(f"{setup.source / 'deep.png'}: ")


# One picture


def test_a_single_file_takes_the_same_path_and_leaves_no_manifest(setup, tmp_path):
    setup.draw("a.png")
    target = tmp_path / "new" / "b.jpg"
    plan = plan_file(setup.source / "a.png", target, False, SETTINGS)
    assert counts(setup.run(plan=plan, options=Options("image", "sha"))) == (1, 0, 0, ExitCode.OK)
    assert opened(target).format == "JPEG"
    assert sorted(path.name for path in target.parent.iterdir()) == ["b.jpg"]
