"""Killed at any moment in place or during undo, no original is lost."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image
from support.full_disks import small_disk
from support.in_place import InPlaceSetup, states
from support.runs import Setup, uninterrupted

from varfix.engine.errors import DiskFullError, OutputLockedError

COUNT = 500
KILLS = 20

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")

CHILD = """
import itertools, os, signal, sys
from pathlib import Path
from support.in_place import InPlaceSetup
from varfix.engine.storage import originals
from varfix.engine.storage.originals import Originals
from varfix.engine.system import atomic, original_file

source, action, moment, links = sys.argv[1:]

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def arm(owner, name, before):
    real, calls = getattr(owner, name), itertools.count(1)
    def call(*arguments, **options):
        number = next(calls)
        if number == 4 and before:
            kill()
        result = real(*arguments, **options)
        if number == 4:
            kill()
        return result
    setattr(owner, name, call)

def refuse(*arguments, **options):
    raise OSError(18, "Invalid cross-device link")

def torn(self, name, sha256):
    with self._journal.open("ab") as file:
        file.write(b'{"name": "ha')
    kill()

if links == "no":
    os.link = refuse
    real_replace = Path.replace
    def replace(path, target):
        if path.parent.parent.name == "originals" and not path.name.endswith(".part"):
            refuse()
        return real_replace(path, target)
    Path.replace = replace
if moment == "torn journal":
    Originals._record = torn
else:
    name, _, when = moment.partition(" ")
    owner = {
        "link_or_copy": originals, "move_back": originals, "_write": atomic, "_record": Originals,
        "flush_and_rename": atomic, "unlink": Path, "replace": Path,
    }[name]
    arm(owner, name, when == "before")
setup = InPlaceSetup(Path(source), Path(source))
setup.run() if action == "run" else setup.undo()
"""

WHEN_RESTORING = [
    ("_record before", "yes"),
    ("torn journal", "yes"),
    ("_record after", "no"),
    ("link_or_copy before", "yes"),
    ("link_or_copy after", "yes"),
    ("link_or_copy after", "no"),
    ("_write after", "yes"),
    ("flush_and_rename before", "no"),
    ("flush_and_rename after", "yes"),
]
WHEN_BRINGING_BACK = [
    ("move_back before", "yes"),
    ("move_back after", "yes"),
    ("replace before", "yes"),
    ("replace after", "yes"),
    ("replace before", "no"),
    ("unlink before", "no"),
    ("move_back after", "no"),
]


@pytest.fixture
def place(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    setup = InPlaceSetup(source, source)
    setup.draw(*(f"{number % 3}/{number}.png" for number in range(9)))
    for number, path in enumerate(sorted(source.rglob("*.png"))):
        path.chmod(0o600 + number)
        os.utime(path, ns=(10**18 + number, 10**18 + number))
    return setup


def killed(setup, action, moment, links):
    """Run a child that is killed at the fourth time of a moment."""
    line = [sys.executable, "-c", CHILD, str(setup.source), action, moment, links]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(line, env=env, timeout=120, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def contents(setup):
    return {name: data for name, (data, _, _) in states(setup.source).items()}


def assert_nothing_lost(setup, before, expected):
    """Every image is the original or the result, and no original is gone."""
    now, kept = contents(setup), setup.kept()
    visible = {name: data for name, data in now.items() if name.rpartition("/")[2][0] != "."}
    assert visible.keys() == before.keys()
    for name, data in visible.items():
        original = before[name][0]
        assert data in (original, expected[name])
        assert original in (data, kept.get(name))


@pytest.mark.parametrize(("moment", "links"), WHEN_RESTORING)
def test_killed_in_place_the_same_command_ends_with_all_results(place, moment, links):
    before = states(place.source)
    expected = uninterrupted(Setup(place.source, place.source.parent / "out"))
    killed(place, "run", moment, links)
    assert_nothing_lost(place, before, expected)
    assert place.run().failed == 0
    assert contents(place) == expected
    assert place.kept() == {name: data for name, (data, _, _) in before.items()}
    assert place.undo() == (9, 0, 0)
    assert states(place.source) == before


@pytest.mark.parametrize("moment", ["link_or_copy after", "flush_and_rename after"])
def test_killed_in_place_undo_ends_with_all_originals(place, moment):
    before = states(place.source)
    killed(place, "run", moment, "yes")
    place.undo()
    assert states(place.source) == before
    assert place.kept() == {}


@pytest.mark.parametrize(("moment", "links"), WHEN_BRINGING_BACK)
def test_killed_on_the_way_back_the_same_command_ends_with_all_originals(place, moment, links):
    before = states(place.source)
    place.run()
    expected = contents(place)
    killed(place, "undo", moment, links)
    assert_nothing_lost(place, before, expected)
    assert place.undo()[1:] == (0, 0)
    assert states(place.source) == before
    assert place.kept() == {}


def test_killed_on_the_way_back_a_run_ends_with_all_results(place):
    before = states(place.source)
    place.run()
    expected = contents(place)
    killed(place, "undo", "move_back after", "yes")
    assert 0 < len(place.kept()) < 9
    place.run()
    assert contents(place) == expected
    assert place.undo() == (9, 0, 0)
    assert states(place.source) == before


def test_two_runs_at_once_refuse_each_other(place):
    plan = place.plan()
    with plan.lock():
        for action in (place.run, place.undo):
            with pytest.raises(OutputLockedError):
                action()
    assert place.kept() == {}


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_full_disk_loses_nothing(tmp_path, place, share, monkeypatch):
    """Copies and results do not both fit: the run stops, and all goes on when space is free."""
    for number in range(6):
        samples = np.random.default_rng(number).integers(0, 256, (150, 150, 3), np.uint8)
        Image.fromarray(samples).save(place.source / f"{number}.bmp")
    size = sum(path.stat().st_size for path in place.source.rglob("*.*"))
    before = states(place.source)
    expected = uninterrupted(Setup(place.source, place.source.parent / "out"))
    with small_disk(tmp_path / "disk", int(size * share) + (64 << 10)) as disk:
        place.backup = disk / "kept"
        with pytest.raises(DiskFullError):
            place.run()
        assert_nothing_lost(place, before, expected)
        assert place.undo()[1:] == (0, 0)
        assert states(place.source) == before


def test_a_full_folder_loses_nothing_and_goes_on_when_space_is_free(tmp_path, place):
    expected = uninterrupted(Setup(place.source, place.source.parent / "out"))
    with small_disk(tmp_path / "disk", "1m") as disk:
        here = InPlaceSetup(disk / "in", disk / "in")
        shutil.copytree(place.source, here.source)
        before = states(here.source)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(psutil.disk_usage(str(disk)).free - 6 * 4096))
        with pytest.raises(DiskFullError):
            here.run()
        assert_nothing_lost(here, before, expected)
        ballast.unlink()
        assert here.run().failed == 0
        assert contents(here) == expected
        assert here.undo() == (9, 0, 0)
        assert states(here.source) == before


def command(*words):
    return [sys.executable, "-m", "varfix.cli", *map(str, words), "-q"]


def many(folder):
    """Write small images of several formats, with a time and mode each."""
    rng = np.random.default_rng(3)
    for number in range(COUNT):
        extension = ("png", "jpg", "bmp", "webp", "tif")[number % 5]
        path = folder / str(number % 7) / f"{number}.{extension}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(path)
        path.chmod(0o600 + number % 8)
        os.utime(path, ns=(10**18 + number, 10**18 + number))


def killed_twenty_times(line, progress, rng, most, check):
    """Kill a command after up to `most` more items each time, then let it end; its exit code."""
    for kill in range(KILLS):
        had, more = progress(), rng.randint(1, most)
        process = subprocess.Popen(line)
        while abs(progress() - had) < more and process.poll() is None:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, most / 1000))
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"kill {kill} came too late"
        check()
    return subprocess.run(line, timeout=600, check=False).returncode


@pytest.mark.slow
def test_twenty_kills_each_way_over_five_hundred_images(tmp_path, shelf):
    source = tmp_path / "in"
    many(source)
    place = InPlaceSetup(source, source)
    before = states(source)
    model = shelf.restore(nodes=[("Sub", ["c1", "tile"], ["restored"], {})])
    common = ("-m", model, "-d", "cpu")
    whole = tmp_path / "out"
    assert subprocess.run(command("dir", source, whole, *common), check=False).returncode == 0
    expected = {name: data for name, (data, _, _) in states(whole).items()}
    journal, rng, figures = source / ".varfix" / "originals.jsonl", random.Random(21), {}

    def recorded():
        return journal.read_bytes().count(b"\n") if journal.exists() else 0

    def check():
        assert_nothing_lost(place, before, expected)

    line = command("dir", "--in-place", source, *common)
    assert killed_twenty_times(line, recorded, rng, COUNT // KILLS - 1, check) == 0
    assert contents(place) == expected
    assert place.kept() == {name: data for name, (data, _, _) in before.items()}
    figures["lines of the journal"] = recorded()

    def kept():
        folders = (source / ".varfix" / "originals" / str(number) for number in range(7))
        return sum(len(list(folder.iterdir())) for folder in folders if folder.exists())

    # Bringing back takes less than a millisecond for an image.
    assert killed_twenty_times(command("undo", source), kept, rng, 3, check) == 0
    assert states(source) == before
    assert not journal.exists()
    assert not list(source.rglob("*.part"))
    sys.stderr.write(json.dumps(figures))
