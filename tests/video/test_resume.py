"""After an interruption a run resumes, and its result is that of an uninterrupted run."""

import errno
import json
import random
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from support.full_disks import enlarge, small_disk
from support.identity import IdentityRestorer

from varfix.engine.batch.stop import StopRequest
from varfix.engine.errors import DiskFullError, ExitCode, OutputLockedError
from varfix.engine.restoration.restorer import RestoredTiles
from varfix.engine.system.folder_lock import lock_folder
from varfix.engine.video import restore_clip as video_run
from varfix.engine.video.encode.segments import SegmentFolder
from varfix.engine.video.reader import ClipReader

from .conftest import images, settings_for, times


class Counting(IdentityRestorer):
    """Counts tiles, which are as many as frames; fails at one of them."""

    seen = 0
    fail_at = None

    def restore(self, tiles, prior):
        self.seen += 1
        if self.seen == self.fail_at:
            raise RuntimeError("pulled the plug")
        return RestoredTiles(tiles)


class Toning(Counting):
    """Changes a frame's tone by its content, so that the filter changes its neighbors too."""

    def restore(self, tiles, prior):
        tone = 0.8 + 0.15 * np.sin(900 * tiles.mean(axis=(1, 2, 3), keepdims=True))
        return super().restore((tiles * tone).astype(np.float32), prior)


def failing(at, kind=Counting):
    restorer = kind()
    restorer.fail_at = at
    return restorer


def folder(source):
    return source.with_name(f"{source.stem}.varfix{source.suffix}.varfix")


@pytest.mark.parametrize("codec", ["h264", "hevc", "ffv1"])
@pytest.mark.parametrize("window", [0, 2])
def test_an_interrupted_run_resumes_where_it_stopped(film, restore, tmp_path, codec, window):
    source = film("clip.mkv", count=23, options={"g": "7", "bf": "2"}, times=None)
    video = {"codec": codec, "segment_seconds": 0.2, "deflicker_window": window}
    whole = restore(source, tmp_path / "whole.mkv", restorer=Toning(), **video)
    assert whole.summary.exit_code == ExitCode.OK

    broken = restore(source, restorer=failing(14, Toning), **video)
    assert broken.summary.exit_code == ExitCode.PARTIAL
    assert not broken.path.exists()
    kept = sorted(path.name for path in folder(source).glob("seg-*.mkv"))
    assert kept

    restorer = Toning()
    made = restore(source, restorer=restorer, **video)
    assert made.summary.exit_code == ExitCode.OK
    assert restorer.seen < 23
    assert made.path.read_bytes() == whole.path.read_bytes()
    assert images(made.path) != images(source)
    assert not folder(source).exists()


def test_nothing_is_done_again_when_only_the_joining_failed(film, restore, monkeypatch):
    source = film("clip.mkv", count=12)

    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(video_run, "verify", fail)
    broken = restore(source, segment_seconds=0.2)
    assert not broken.path.exists()
    monkeypatch.undo()
    restorer = Counting()
    made = restore(source, restorer=restorer, segment_seconds=0.2)
    assert restorer.seen == 0
    assert images(made.path) == images(source)


def broken(source, restore, **video):
    restore(source, restorer=failing(9), segment_seconds=0.2, **video)
    assert list(folder(source).glob("seg-*.mkv"))


def test_other_settings_begin_anew(film, restore):
    source = film("clip.mkv", count=15)
    broken(source, restore)
    restorer = Counting()
    made = restore(source, restorer=restorer, segment_seconds=0.2, codec="h264")
    assert restorer.seen == 15
    assert made.summary.ok == 1


def test_another_source_begins_anew(film, restore):
    source = film("clip.mkv", count=15)
    broken(source, restore)
    film("clip.mkv", count=15, size=(32, 32))
    made = restore(source, segment_seconds=0.2)
    assert images(made.path) == images(source)


@pytest.mark.parametrize("harm", ["cut", "changed", "gone", "note"])
def test_a_harmed_segment_is_made_again(film, restore, harm):
    source = film("clip.mkv", count=15)
    broken(source, restore)
    last = sorted(folder(source).glob("seg-*.mkv"))[-1]
    if harm == "cut":
        last.write_bytes(last.read_bytes()[:-100])
    elif harm == "changed":
        data = bytearray(last.read_bytes())
        data[len(data) // 2] ^= 255
        last.write_bytes(data)
    elif harm == "gone":
        last.unlink()
    else:
        last.with_suffix(".json").write_bytes(b'{"times"')
    made = restore(source, segment_seconds=0.2)
    assert images(made.path) == images(source)


def test_a_source_that_cannot_seek_is_read_from_its_beginning(film, restore, monkeypatch):
    source = film("clip.mkv", count=15)
    broken(source, restore)
    original = ClipReader.frames

    def frames(self, first=None, end=None):
        for frame in original(self, None, end):
            if first is None or frame.pts >= first + 40:  # a seek that lands a frame too late
                yield frame

    monkeypatch.setattr(ClipReader, "frames", frames)
    made = restore(source, segment_seconds=0.2)
    assert images(made.path) == images(source)


def test_two_runs_do_not_make_the_same_file(film, restore):
    source = film("clip.mkv")
    with lock_folder(folder(source)), pytest.raises(OutputLockedError):
        restore(source)


def test_a_full_disk_keeps_what_is_finished(film, restore, monkeypatch):
    source = film("clip.mkv", count=15)
    original = SegmentFolder.add

    def add(self, number, part, note):
        if number == 2:
            raise DiskFullError("no space left")
        original(self, number, part, note)

    monkeypatch.setattr(SegmentFolder, "add", add)
    with pytest.raises(DiskFullError):
        restore(source, segment_seconds=0.2)
    assert len(list(folder(source).glob("seg-*.mkv"))) == 2
    monkeypatch.undo()
    restorer = Counting()
    made = restore(source, restorer=restorer, segment_seconds=0.2)
    assert restorer.seen == 5
    assert images(made.path) == images(source)


def test_a_stop_is_no_failure_and_keeps_what_is_finished(film):
    from varfix.engine.batch.context import RunOptions
    from varfix.engine.batch.item import VideoPart
    from varfix.engine.batch.plan import plan_single
    from varfix.engine.batch.plan_clip import choose_target, clip_item
    from varfix.engine.batch.run import run_batch
    from varfix.engine.video.probe import probe_for

    source, stop = film("clip.mkv", count=15), StopRequest()
    settings = settings_for(segment_seconds=0.2)

    class Stopping(Counting):
        def restore(self, tiles, prior):
            if self.seen == 12:
                stop.request(ExitCode.SIGINT)
            return super().restore(tiles, prior)

    clip = probe_for(source, settings)
    chosen = choose_target(source, None, clip, settings)
    item = clip_item(source, chosen.path, VideoPart(clip), overwrite=False)
    plan = plan_single(item, "fingerprint")
    options = RunOptions("video", "sha", stop=stop)
    summary = run_batch(plan, Stopping(), settings, lambda event: None, options)
    assert (summary.exit_code, summary.failed, summary.ok) == (ExitCode.SIGINT, 0, 0)
    assert not chosen.path.exists()
    assert len(list(folder(source).glob("seg-*.mkv"))) >= 1


def command(source, target, model, *extra):
    line = [sys.executable, "-m", "varfix.cli", "video", source, target, "-q", "-m", model]
    return [
        str(word) for word in (*line, "-d", "cpu", "--set", "video.segment_seconds=0.2", *extra)
    ]


def kill_when(line, moment, delay):
    """Run a command, and kill it some seconds after a moment has come."""
    process = subprocess.Popen(line)
    while process.poll() is None and not moment():
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_at_ten_moments_the_clip_is_that_of_an_unbroken_run(film, shelf, tmp_path):
    source, whole = film("clip.mp4", count=250, audio=("aac",), size=(320, 240)), tmp_path / "w.mp4"
    # With this preset the model changes every frame by what the frames around it show.
    options = shelf.pair(), "-p", "denoise"
    assert subprocess.run(command(source, whole, *options), check=False).returncode == 0
    target, rng = tmp_path / "out.mp4", random.Random(6)
    line, parts = command(source, target, *options), tmp_path / "out.mp4.varfix"

    def finished():
        return len(list(parts.glob("seg-*.json")))

    for number in range(10):
        had = finished()
        if number % 4 == 1:  # while the run begins, and goes through what is finished
            kill_when(line, lambda: True, rng.uniform(0.0, 1.5))
        else:
            kill_when(line, lambda had=had: finished() > had, rng.uniform(0.0, 0.1))
        assert not target.exists()
    assert 7 <= finished() < 50
    # Once more, while what is finished is put together.
    kill_when(line, lambda: finished() == 50, 0.0)
    assert not target.exists()
    assert subprocess.run(line, check=False).returncode == 0
    assert target.read_bytes() == whole.read_bytes()
    assert images(target) != images(source)
    assert times(target) == times(source)
    assert sorted(path.name for path in tmp_path.iterdir() if "varfix" in path.name) == []


@pytest.mark.slow
def test_memory_is_flat_over_a_long_clip(film, shelf, tmp_path):
    source = film("long.mp4", count=1000, size=(320, 240))
    line = command(source, tmp_path / "out.mp4", shelf.foreign(), "--log-file", tmp_path / "log")
    process = subprocess.Popen(line)
    seen = []
    while process.poll() is None:
        try:
            resident = psutil.Process(process.pid).memory_info().rss / 2**20
            last = [json.loads(line) for line in (tmp_path / "log").read_bytes().splitlines()[-1:]]
        except (psutil.NoSuchProcess, OSError, ValueError):
            continue
        done = last[0].get("done", 0) if last else 0
        seen.append((done, resident))
        time.sleep(0.1)
    assert process.returncode == 0
    early = [mib for done, mib in seen if 200 < done <= 400]
    late = [mib for done, mib in seen if done > 800]
    sys.stderr.write(f"{np.median(early):.0f} MiB, then {np.median(late):.0f} MiB\n")
    assert np.median(late) - np.median(early) < 24


@pytest.mark.parametrize("size", [30_000, 60_000])
def test_a_run_resumes_after_a_full_disk(film, restore, tmp_path, size):
    source = film("clip.mkv", count=30, size=(128, 96))
    with small_disk(tmp_path / "disk", size) as place:
        target = place / "out.mkv"
        with pytest.raises(DiskFullError, match="no space left"):
            restore(source, target, segment_seconds=0.2)
        assert not target.exists()
        enlarge(place, "8M")
        restorer = Counting()
        made = restore(source, target, restorer=restorer, segment_seconds=0.2)
        assert restorer.seen < 30 * 4
        assert images(made.path) == images(source)
        assert [path.name for path in place.iterdir()] == ["out.mkv"]
