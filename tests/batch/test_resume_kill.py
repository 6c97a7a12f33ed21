"""Long runs of the real command line: killed, with a full disk, with limited memory."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image
from support.full_disks import small_disk

COUNT = int(os.environ.get("VARFIX_TEST_PICTURES", "2000"))
KILLS = int(os.environ.get("VARFIX_TEST_KILLS", "20"))
EXTENSIONS = ("png", "jpg", "bmp", "webp", "tif")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here"),
]


def draw(folder, count, size=(12, 16)):
    """Fill a folder with images of random pixels in several formats and subfolders."""
    rng = np.random.default_rng(7)
    for number in range(count):
        path = folder / str(number % 7) / f"{number}.{EXTENSIONS[number % len(EXTENSIONS)]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(path)
    return folder


@pytest.fixture
def model(shelf):
    return shelf.restore()


@pytest.fixture
def source(tmp_path):
    return draw(tmp_path / "in", COUNT)


def command(source, out, model, *extra):
    line = [sys.executable, "-m", "varfix.cli", "dir", source, out, "-q", "-m", model, *extra]
    return [str(word) for word in (*line, "-d", "cpu")]


def finish(*arguments):
    """Run to the end; the exit code."""
    return subprocess.run(
        command(*arguments), stderr=subprocess.DEVNULL, timeout=1200, check=False
    ).returncode


def digests(folder):
    """What is in a folder under final names; hidden names are varfix's own."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    }


def entries(out):
    """The manifest's whole lines, the last one for a name counting."""
    found = {}
    for line in (out / ".varfix" / "run.jsonl").read_bytes().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # torn by a kill
        found[entry["dst"]] = entry
    return found


def entered(out):
    """Number of results in the manifest."""
    manifest = out / ".varfix" / "run.jsonl"
    return manifest.read_bytes().count(b"\n") if manifest.exists() else 0


def started(source, out, model, count):
    """A run that has finished so many images more than before, and the seconds that it took."""
    had, begin = entered(out), time.monotonic()
    process = subprocess.Popen(command(source, out, model))
    while entered(out) < had + count and process.poll() is None:
        time.sleep(0.001)
    return process, time.monotonic() - begin


def test_killed_at_twenty_moments_the_results_are_the_same(source, model, tmp_path):
    inputs = digests(source)
    uninterrupted, first = started(source, tmp_path / "whole", model, 1)
    assert uninterrupted.wait() == 0
    expected = digests(tmp_path / "whole")
    assert len(expected) == COUNT

    out = tmp_path / "out"
    rng = random.Random(20)
    for number in range(KILLS):
        # Mostly while images are written, now and then while the plan is made.
        early = rng.random() < 0.2
        more = 0 if early else rng.randint(1, COUNT * 3 // (2 * KILLS))
        process, _ = started(source, out, model, more)
        time.sleep(rng.uniform(0, first if early else 0.02))
        process.kill()
        assert process.wait() == -signal.SIGKILL, f"kill {number} came too late"
        standing = digests(out) if out.exists() else {}
        assert standing.items() <= expected.items()
    assert 0 < len(digests(out)) < COUNT

    assert finish(source, out, model) == 0
    assert digests(out) == expected
    assert set(entries(out)) == set(expected)
    assert not list(out.rglob(".*.part"))
    assert digests(source) == inputs
    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    assert finish(source, out, model) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_a_disk_that_fills_and_is_freed_loses_nothing(source, model, tmp_path):
    assert finish(source, tmp_path / "whole", model) == 0
    expected = digests(tmp_path / "whole")
    blocks = len(expected) * 4096  # a small file takes a page of memory
    with small_disk(tmp_path / "disk", 2 * blocks + (8 << 20)) as place:
        ballast, out = place / "ballast", place / "out"
        ballast.write_bytes(bytes(psutil.disk_usage(str(place)).free))
        full, code = 0, 6
        while code == 6 and full < 10:
            with ballast.open("rb+") as file:
                file.truncate(max(0, ballast.stat().st_size - blocks // 8))
            code = finish(source, out, model)
            standing = digests(out)
            assert standing.items() <= expected.items()
            assert not list(out.rglob(".*.part"))
            full += code == 6
        assert full >= 3, "the disk was hardly ever full"
        assert code == 0
        assert standing == expected
        assert set(entries(out)) == set(expected)


def watched(process, out):
    """Resident MiB while a run goes on, by images finished."""
    seen, family = [], psutil.Process(process.pid)
    manifest = out / ".varfix" / "run.jsonl"
    while process.poll() is None:
        try:
            resident = family.memory_info().rss / 2**20
            done = manifest.read_bytes().count(b"\n")
        except (psutil.NoSuchProcess, FileNotFoundError):
            done, resident = 0, 0.0
        seen.append((done, resident))
        time.sleep(0.05)
    return seen


def test_memory_is_flat_over_a_long_run(model, tmp_path):
    source = draw(tmp_path / "in", COUNT, size=(160, 200))
    out = tmp_path / "out"
    process = subprocess.Popen(command(source, out, model))
    seen = watched(process, out)
    assert process.returncode == 0
    early = [mib for done, mib in seen if 0.1 * COUNT < done <= 0.2 * COUNT]
    last = [mib for done, mib in seen if done > 0.9 * COUNT]
    assert early and last
    first, final = np.median(early), np.median(last)
    sys.stderr.write(json.dumps({"rss_mib_15": round(first, 1), "rss_mib_100": round(final, 1)}))
    # One image kept by mistake every hundred would be seen; allocators' noise is not.
    assert final - first < 16


PLAN = """
import resource, sys, time
from pathlib import Path
from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_batch
from varfix.engine.settings.types import Settings
begin = time.process_time()
plan = plan_batch(Path(sys.argv[1]), Path(sys.argv[2]), BatchRequest(), Settings(), "recipe")
seconds = time.process_time() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(plan.items), len(plan.skips), seconds, peak / 1024)
"""


def planned(source, out):
    """Items, skips, processor seconds and peak MiB of planning in a process of its own."""
    line = [sys.executable, "-c", PLAN, str(source), str(out)]
    words = subprocess.run(line, capture_output=True, check=True, text=True).stdout.split()
    return int(words[0]), int(words[1]), float(words[2]), float(words[3])


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is KiB on Linux alone")
def test_a_hundred_thousand_files_are_planned_in_seconds_and_little_memory(tmp_path):
    drawn = draw(tmp_path / "one", 2)
    originals = sorted(drawn.rglob("*.*"))
    source = tmp_path / "in"
    for number in range(100_000):
        original = originals[number % 2]
        place = source / f"{number % 100:02d}"
        place.mkdir(parents=True, exist_ok=True)
        # Links to one file: as many names and headers to read, without the disk's own cost.
        os.link(original, place / f"IMG_{number:06d}{original.suffix}")
    items, skips, seconds, peak = planned(source, tmp_path / "out")
    sys.stderr.write(json.dumps({"plan_seconds": round(seconds, 1), "peak_mib": round(peak)}))
    assert (items, skips) == (100_000, 0)
    assert peak < 300
    assert seconds < 30
