"""Results have the times of their sources, or those of the run, as `output.times` says."""

import os
import subprocess
import sys
import time

import pytest
from support.runs import Setup, replace_output

from varfix.engine.system.file_times import FileTimes, set_times, times_of

LONG_AGO = 1_111_111_111_123_456_700  # ns; a multiple of the 100 ns of Windows


def dated(setup, *names):
    """Draw images that were changed long ago."""
    setup.draw(*names)
    for name in names:
        os.utime(setup.source / name, ns=(LONG_AGO, LONG_AGO))


def test_a_result_has_the_time_of_its_source(setup):
    dated(setup, "a.png", "b/c.jpg")
    setup.run()
    for name in ("a.png", "b/c.jpg"):
        assert (setup.out / name).stat().st_mtime_ns == LONG_AGO


def test_with_now_a_result_has_the_time_of_the_run(setup):
    dated(setup, "a.png")
    before = time.time() - 5
    setup.run(settings=replace_output(times="now"))
    assert (setup.out / "a.png").stat().st_mtime > before


def test_a_result_that_replaces_its_source_has_its_time(setup):
    dated(setup, "a.png")
    here = Setup(setup.source, setup.source)
    assert here.run(overwrite=True).ok == 1
    assert (setup.source / "a.png").stat().st_mtime_ns == LONG_AGO
    assert here.run(overwrite=True).skipped == 1


def test_the_time_makes_no_result_stale(setup):
    dated(setup, "a.png")
    assert setup.run().ok == 1
    assert setup.run(settings=replace_output(times="now")).skipped == 1


def test_exiftool_reads_the_same_time(setup):
    dated(setup, "a.jpg")
    setup.run()
    read = ["exiftool", "-s3", "-FileModifyDate"]
    try:
        seen = [
            subprocess.run([*read, str(folder / "a.jpg")], capture_output=True, check=True).stdout
            for folder in (setup.source, setup.out)
        ]
    except FileNotFoundError:
        pytest.skip("exiftool is not installed")
    assert seen[0] == seen[1]
    assert seen[0].startswith(b"2005:03:1")


@pytest.mark.skipif(sys.platform == "linux", reason="Linux cannot set the time of creation")
def test_the_time_of_creation_is_set_where_the_system_has_one(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    wanted = FileTimes(LONG_AGO, LONG_AGO - 10**12)
    set_times(path, wanted)
    assert times_of(path.stat()) == wanted


def test_an_impossible_time_is_not_an_error(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x")
    set_times(path, FileTimes(2**80))
    assert path.read_bytes() == b"x"
