"""Which errors fail one image, which end a run, and which results stay."""

import errno
import itertools
import os
import subprocess
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image
from support.runs import Inverter, counts, pixels_of, uninterrupted

from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.stop import StopRequest
from varfix.engine.errors import (
    DeviceMemoryError,
    DiskFullError,
    ExitCode,
    ModelContractError,
    NonFiniteError,
    OutputDeniedError,
    OutputLockedError,
)
from varfix.engine.events import ItemFail, ItemStart, RunEnd
from varfix.engine.system.folder_lock import lock_folder


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


def test_a_full_disk_ends_the_run_which_can_be_resumed(setup, monkeypatch):
    setup.draw(*(f"{number}.png" for number in range(30)))
    expected = uninterrupted(setup)
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
    assert caught.value.exit_code == ExitCode.OUTPUT
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


def test_a_run_on_a_really_full_disk_can_be_resumed(setup, tmp_path):
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


def test_a_name_that_the_destination_cannot_hold_fails_one_image(setup):
    setup.draw("a.png", "b.png")
    (setup.out / "b.png").mkdir(parents=True)
    assert counts(setup.run(overwrite=True)) == (1, 0, 1, ExitCode.PARTIAL)
    assert setup.of(ItemFail)[0].code == "encode_failed"


def test_two_runs_do_not_write_to_one_destination(setup):
    setup.draw("a.png")
    plan = setup.plan()
    with lock_folder(setup.out), pytest.raises(OutputLockedError) as caught:
        setup.run(plan=plan)
    assert caught.value.exit_code == 6
    assert setup.events == []
    assert setup.results() == {}
    assert setup.run().ok == 1


@pytest.mark.parametrize(
    "error", [DeviceMemoryError("out of memory at batch 1"), ModelContractError("graph failed")]
)
def test_a_lost_device_or_broken_model_ends_the_run_and_results_stay(setup, error):
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


def test_invalid_values_fail_one_image(setup):
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


def test_an_image_that_does_not_fit_into_memory_fails_with_exit_5(setup):
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


def test_an_unexpected_error_fails_one_image_and_is_named(setup):
    @dataclass
    class Buggy(Inverter):
        calls: int = 0

        def restore(self, tiles, prior):
            self.calls += 1
            return super().restore(tiles[:, :5] if self.calls == 1 else tiles, prior)

    setup.draw("a.png", "b.png")
    assert counts(setup.run(Buggy())) == (1, 0, 1, ExitCode.PARTIAL)
    assert "ValueError" in setup.of(ItemFail)[0].message


def test_a_source_that_vanishes_after_planning_fails_alone(setup):
    setup.draw("a.png", "b.png")
    plan = setup.plan()
    (setup.source / "a.png").unlink()
    assert counts(setup.run(plan=plan)) == (1, 0, 1, ExitCode.PARTIAL)
    (failure,) = setup.of(ItemFail)
    assert (failure.code, failure.retryable) == ("source_read", True)


def test_fail_fast_stops_at_the_first_failure(setup):
    setup.draw(*(f"{number}.png" for number in range(20)))
    (setup.source / "0.png").write_bytes(b"broken")
    summary = setup.run(options=RunOptions("dir", "sha", fail_fast=True))
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
                stop.request(ExitCode.SIGTERM)
            return super().restore(tiles, prior)

    setup.draw(*(f"{number}.png" for number in range(20)))
    summary = setup.run(Stopping(), options=RunOptions("dir", "sha", stop=stop))
    assert summary.ok == len(setup.results()) == 3
    (end,) = setup.of(RunEnd)
    assert (end.status, end.exit) == ("stopped", ExitCode.SIGTERM)
    assert summary.exit_code == ExitCode.SIGTERM
    assert counts(setup.run()) == (17, 3, 0, ExitCode.OK)


def test_a_stop_after_the_last_image_changes_nothing(setup):
    stop = StopRequest()

    class Late(Inverter):
        def restore(self, tiles, prior):
            stop.request(ExitCode.SIGTERM)
            return super().restore(tiles, prior)

    setup.draw("a.png")
    assert counts(setup.run(Late(), options=RunOptions("dir", "sha", stop=stop))) == (
        1,
        0,
        0,
        ExitCode.OK,
    )
    assert setup.of(RunEnd)[0].status == "ok"
