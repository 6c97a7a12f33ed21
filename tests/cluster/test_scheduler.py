"""Whatever befalls the workers of a cluster, a run ends as one in this process does."""

import errno
import json
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.fake_cluster import Hall, Opened, Works, held_at_once, stop_after_first
from support.judging import Judging
from support.runs import SETTINGS, Inverter, counts, unbroken

from varfix.engine.batch.context import RunContext
from varfix.engine.batch.stop import StopRequest
from varfix.engine.cluster import pool as pool_module
from varfix.engine.cluster import worker as worker_module
from varfix.engine.cluster.messages import ResultPublished, ResultReady, WorkerFinished
from varfix.engine.cluster.pool import WorkerPool
from varfix.engine.errors import (
    DeviceError,
    DeviceUnavailableError,
    DiskFullError,
    ExitCode,
    ModelMissingError,
    OutputDeniedError,
)
from varfix.engine.events import ItemDone, ItemFail, ItemStart, RunEnd, RunStart, Warn
from varfix.engine.system import atomic

NAMES = [f"{number % 3}/{number}.png" for number in range(12)]


@pytest.fixture
def works(tmp_path):
    works = Works(tmp_path / "in", tmp_path / "out")
    works.draw(*NAMES)
    return works


def warned(works):
    return [event.code for event in works.of(Warn)]


def entries(works):
    lines = (works.out / ".varfix" / "run.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {entry["dst"]: {**entry, "seconds": 0} for entry in found}


def test_a_crew_makes_what_this_process_makes(works):
    expected = unbroken(works)
    assert counts(works.crewed()) == (12, 0, 0, ExitCode.OK)
    assert works.results() == expected
    local = Works(works.source, works.out.with_name("local"))
    local.run()
    assert entries(works) == entries(local)
    assert not list(works.out.rglob(".varfix-mark-*"))


def test_the_events_are_those_of_a_run_in_this_process(works):
    works.crewed()
    told = [type(event) for event in works.events]
    assert told[0] is RunStart
    assert told[-1] is RunEnd
    assert told.count(ItemStart) == told.count(ItemDone) == 12
    assert works.of(RunStart)[0].model.name == "identity"
    assert all(event.stage.keys() == {"decode", "infer", "encode"} for event in works.of(ItemDone))
    assert all(event.bytes > 0 for event in works.of(ItemDone))


def test_what_workers_find_reaches_the_run(works):
    works.hall = Hall(Opened(Judging))
    works.crewed()
    assert all(event.applied == ("haze",) for event in works.of(ItemDone))
    assert works.of(RunEnd)[0].applied == {"haze": 12}


def test_what_is_done_is_skipped(works):
    works.crewed()
    assert counts(works.crewed()) == (0, 12, 0, ExitCode.OK)


def test_a_result_is_entered_before_it_is_there(works, monkeypatch):
    seen = []
    real = atomic.AtomicWriter.write

    def watched(self, target, data, times):
        seen.append(target.relative_to(works.out).as_posix() in entries(works))
        real(self, target, data, times)

    monkeypatch.setattr(atomic.AtomicWriter, "write", watched)
    works.crewed()
    assert seen == [True] * 12


@dataclass
class Deadly(Inverter):
    """Costs its worker its life at the restorations that are counted out."""

    works: Any = None
    moments: tuple = ()
    calls = 0

    def restore(self, tiles, prior):
        Deadly.calls += 1
        if Deadly.calls in self.moments:
            mine = next(n for n, s in self.works.hall.stations.items() if s._restorer is self)
            self.works.hall.kill(mine)
            threading.Event().wait()  # its thread does nothing more
        return super().restore(tiles, prior)


def deadly(works, *moments, wanted=2):
    Deadly.calls = 0
    works.hall = Hall(Opened(lambda: Deadly(works=works, moments=moments)), wanted)


@pytest.mark.parametrize("moments", [(1,), (4,), (12,), (2, 3, 9)])
def test_lost_workers_cost_nothing_but_time(works, moments):
    expected = unbroken(works)
    deadly(works, *moments)
    assert counts(works.crewed()) == (12, 0, 0, ExitCode.OK)
    assert works.results() == expected
    assert warned(works) == ["worker_lost"] * len(moments)
    assert "killed" in works.of(Warn)[0].message
    assert len(works.of(ItemDone)) == 12


def test_a_lost_workers_place_is_taken_by_a_new_one(works):
    deadly(works, 3, wanted=1)
    assert counts(works.crewed()) == (12, 0, 0, ExitCode.OK)


@dataclass
class Poisoned(Inverter):
    """Costs its worker its life at images whose first value is 0."""

    works: Any = None

    def restore(self, tiles, prior):
        if not tiles[0, 0, 0].any():
            mine = next(n for n, s in self.works.hall.stations.items() if s._restorer is self)
            self.works.hall.kill(mine)
            threading.Event().wait()
        return super().restore(tiles, prior)


def test_an_image_that_kills_every_worker_fails_alone(works):
    from PIL import Image

    black = works.source / "1" / "4.png"
    Image.fromarray(np.zeros((9, 14, 3), np.uint8)).save(black)
    works.hall = Hall(Opened(lambda: Poisoned(works=works)))
    assert counts(works.crewed()) == (11, 0, 1, ExitCode.PARTIAL)
    (failed,) = works.of(ItemFail)
    assert failed.code == "worker_lost"
    assert failed.message.startswith(f"{black}: 3 workers were lost while they restored it")
    assert failed.retryable
    assert "1/4.png" not in works.results()


class Deaf(Hall):
    """Loses a worker after it has published its fourth result, before that is heard."""

    heard = 0

    def hear(self, worker, value):
        if isinstance(value, list) and self.heard < 4:
            self.heard += sum(isinstance(one, ResultPublished) for one in value)
            if self.heard >= 4:
                self.kill(worker)
        return value


def test_a_result_that_was_published_but_not_reported_is_not_made_again(works, monkeypatch):
    published = []
    real = atomic.AtomicWriter.write
    monkeypatch.setattr(
        atomic.AtomicWriter,
        "write",
        lambda self, target, data, times: (
            published.append(target.name),
            real(self, target, data, times),
        ),
    )
    expected = unbroken(works)
    published.clear()
    works.hall = Deaf()
    assert counts(works.crewed()) == (12, 0, 0, ExitCode.OK)
    assert works.results() == expected
    assert warned(works) == ["worker_lost"]
    assert sorted(published) == sorted(name.rpartition("/")[2] for name in NAMES)
    assert sorted(event.id for event in works.of(ItemDone)) == list(range(12))


def test_in_place_a_result_is_not_restored_a_second_time(works):
    expected = unbroken(works)
    works.out = works.source
    works.hall = Deaf()
    assert counts(works.crewed(overwrite=True)) == (12, 0, 0, ExitCode.OK)
    assert {name: works.results()[name] for name in expected} == expected


def test_a_worker_publishes_nothing_without_leave(works):
    """As when its run is gone, or takes it for lost."""
    plan = works.plan()
    works.out.mkdir()
    mine = worker_module.Worker(Opened())
    mine.load_model()
    assert mine.start(RunContext(SETTINGS, "recipe", plan.source, plan.target), "") is None
    mine.assign(plan.items[:2])
    ready = wait_for(mine, ResultReady, 2)
    assert works.results() == {}
    mine.grant_publish(ready[0].id, True)
    wait_for(mine, ResultPublished, 1)
    mine.grant_publish(ready[1].id, False)
    mine.stop()
    wait_for(mine, WorkerFinished, 1)
    assert list(works.results()) == [plan.items[ready[0].id].target.name]


def test_a_worker_whose_run_is_gone_waits_for_no_leave(works, monkeypatch):
    """A thread that did would keep its process, and the model, in memory for ever."""
    monkeypatch.setattr(worker_module, "_TIMEOUT", 0.2)
    plan = works.plan()
    works.out.mkdir()
    mine = worker_module.Worker(Opened())
    mine.load_model()
    mine.start(RunContext(SETTINGS, "recipe", plan.source, plan.target), "")
    mine.assign(plan.items[:1])
    time.sleep(1.0)  # nobody asks for news
    (ended,) = wait_for(mine, WorkerFinished, 1)
    assert isinstance(ended.error, DeviceError)
    assert works.results() == {}


def wait_for(mine, kind, count):
    found = []
    end = time.monotonic() + 10
    while len(found) < count and time.monotonic() < end:
        found += [one for one in mine.poll(0.1, 0.0) if isinstance(one, kind)]
    assert len(found) == count
    return found


@dataclass
class Slow(Inverter):
    def restore(self, tiles, prior):
        time.sleep(0.05)
        return super().restore(tiles, prior)


def test_no_more_is_given_than_can_soon_be_done(works):
    works.draw(*(f"more/{number}.png" for number in range(30)))
    works.hall = Hall(Opened(Slow), wanted=1)
    works.crewed()
    assert held_at_once(works.hall) <= 2.5 / 0.05
    assert len(works.results()) == 42


def test_stopped_it_ends_soon_and_goes_on_where_it_was(works):
    expected = unbroken(works)
    works.hall = Hall(Opened(Slow))
    stop = StopRequest()
    threading.Thread(target=stop_after_first, args=(works, stop)).start()
    summary = works.crewed(options={"stop": stop})
    assert summary.exit_code is ExitCode.SIGINT
    assert 0 < summary.ok < 12
    assert works.of(RunEnd)[0].status == "stopped"
    assert len(works.results()) == summary.ok
    works.hall = Hall()
    assert counts(works.crewed()) == (12 - summary.ok, summary.ok, 0, ExitCode.OK)
    assert works.results() == expected


def test_fail_fast_stops_all_workers(works):
    (works.source / "0" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    works.hall = Hall(Opened(Slow))
    summary = works.crewed(options={"fail_fast": True})
    assert summary.failed == 1
    assert summary.ok < 11


def test_failures_are_told_as_ever_and_stop_nothing(works):
    broken = works.source / "2" / "5.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nno more")
    assert counts(works.crewed()) == (11, 0, 1, ExitCode.PARTIAL)
    (told,) = works.of(ItemFail)
    works.hall = Hall()
    local = Works(works.source, works.out.with_name("local"))
    local.run()
    assert local.of(ItemFail) == [told]


def test_a_full_disk_ends_the_run_with_what_is_done_kept(works, monkeypatch):
    expected = unbroken(works)
    real, written = atomic._write, []

    def full(part, data):
        written.append(part)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(part, data)

    monkeypatch.setattr(atomic, "_write", full)
    with pytest.raises(DiskFullError):
        works.crewed()
    assert works.of(RunEnd)[0].exit == ExitCode.OUTPUT
    monkeypatch.setattr(atomic, "_write", real)
    works.hall = Hall()
    assert works.crewed().skipped >= 4
    assert works.results() == expected


class Odd(Hall):
    """Every second worker opens its model by another function."""

    def __init__(self, other, wanted=2):
        super().__init__(wanted=wanted)
        self.other = other

    def start_worker(self):
        worker = super().start_worker()
        if worker % 2 == 0:
            self.stations[worker] = worker_module.Worker(self.other)
        return worker


def test_a_worker_with_another_model_takes_no_part(works):
    works.hall = Odd(Opened(sha256="another"))
    # Which of the two is ready first decides whose model is the run's.
    assert counts(works.crewed()) == (12, 0, 0, ExitCode.OK)
    assert warned(works) == ["worker_refused"]


def test_a_worker_with_another_version_takes_no_part(works, monkeypatch):
    monkeypatch.setattr(worker_module, "version", lambda name: "9.9")
    with pytest.raises(DeviceError, match=r"has varfix 9\.9, this machine"):
        check_here(works, monkeypatch)


def check_here(works, monkeypatch):
    crew = WorkerPool(works.hall)
    facts = crew.open(10)
    monkeypatch.undo()
    error = worker_module.check_worker(facts, facts)
    assert error is not None
    raise error


def test_a_worker_that_sees_other_folders_takes_no_part(works, monkeypatch):
    """It would write to a disk of its own, where nobody finds the results."""
    real = pool_module._probe_file

    def elsewhere(target):
        return real(type(target)(target.folder.with_name("elsewhere")))

    monkeypatch.setattr(pool_module, "_probe_file", elsewhere)
    works.out.mkdir()
    original = os.path.isfile
    monkeypatch.setattr(
        os.path,
        "isfile",
        lambda path: "varfix-mark-" not in str(path) and original(path),
    )
    with pytest.raises(OutputDeniedError, match="not the same folder"):
        works.crewed()
    assert works.results() == {}


def missing(warn):
    raise ModelMissingError("nowhere")


def test_a_model_that_no_worker_has_is_told_before_the_run(works):
    works.hall = Hall(missing)
    with pytest.raises(ModelMissingError, match="nowhere"):
        WorkerPool(works.hall).open(10)


def test_where_no_worker_is_ready_in_time_that_is_told(works):
    works.hall = Hall(lambda warn: threading.Event().wait(5))
    with pytest.raises(DeviceUnavailableError, match="no worker was ready within"):
        WorkerPool(works.hall).open(0.2)


@dataclass
class Broken(Inverter):
    def restore(self, tiles, prior):
        raise DeviceError("fell off the bus")


def test_a_device_that_fails_costs_its_worker_only(works):
    expected = unbroken(works)
    works.hall = Odd(Opened(Broken))
    assert works.crewed().exit_code in (ExitCode.OK, ExitCode.PARTIAL)
    assert "worker_lost" in warned(works)
    done = works.results()
    assert done == {name: expected[name] for name in done}
    assert len(done) == 12 - len(works.of(ItemFail))


def test_when_no_worker_holds_out_the_run_fails(works):
    works.hall = Hall(Opened(Broken))
    with pytest.raises(DeviceUnavailableError, match=r"no worker is left \(fell off the bus\)"):
        works.crewed()
    assert works.of(RunEnd)[0].exit == ExitCode.DEVICE
    assert "worker_given_up" in warned(works)
