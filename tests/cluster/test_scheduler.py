"""A run on a cluster ends as a run in this process does, whatever happens to the workers."""

import errno
import json
import os
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.fake_cluster import (
    ClusterSetup,
    FakeLoader,
    FakeTransport,
    most_assigned,
    stop_after_first,
)
from support.judging import HAZY, Judging
from support.runs import SETTINGS, Inverter, counts, uninterrupted

from varfix.engine.batch.context import RunContext
from varfix.engine.batch.stop import StopRequest
from varfix.engine.cluster import pool as pool_module
from varfix.engine.cluster import worker as worker_module
from varfix.engine.cluster.messages import (
    ResultPublished,
    ResultReady,
    WorkerFinished,
    WorkerStarted,
)
from varfix.engine.cluster.pool import WorkerPool
from varfix.engine.cluster.remote_restorer import RemoteRestorer
from varfix.engine.errors import (
    DeviceError,
    DeviceUnavailableError,
    DiskFullError,
    ExitCode,
    ModelMissingError,
    OutputDeniedError,
)
from varfix.engine.events import ItemDone, ItemFail, ItemStart, RunEnd, RunStart, Warn
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.system import atomic

NAMES = [f"{number % 3}/{number}.png" for number in range(12)]


@pytest.fixture
def setup(tmp_path):
    setup = ClusterSetup(tmp_path / "in", tmp_path / "out")
    setup.draw(*NAMES)
    return setup


def warning_codes(setup):
    return [event.code for event in setup.of(Warn)]


def entries(setup):
    lines = (setup.out / ".varfix" / "run.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {entry["dst"]: {**entry, "seconds": 0} for entry in found}


def test_results_and_manifest_are_those_of_a_run_in_this_process(setup):
    expected = uninterrupted(setup)
    assert counts(setup.run_on_cluster()) == (12, 0, 0, ExitCode.OK)
    assert setup.results() == expected
    local = ClusterSetup(setup.source, setup.out.with_name("local"))
    local.run()
    assert entries(setup) == entries(local)
    assert not list(setup.out.rglob(".varfix-mark-*"))


def test_the_events_are_those_of_a_run_in_this_process(setup):
    setup.run_on_cluster()
    kinds = [type(event) for event in setup.events]
    assert kinds[0] is RunStart
    assert kinds[-1] is RunEnd
    assert kinds.count(ItemStart) == kinds.count(ItemDone) == 12
    assert setup.of(RunStart)[0].model.name == "identity"
    assert all(event.stage.keys() == {"decode", "infer", "encode"} for event in setup.of(ItemDone))
    assert all(event.bytes > 0 for event in setup.of(ItemDone))


def test_findings_of_workers_reach_the_run(setup):
    setup.transport = FakeTransport(FakeLoader(Judging))
    setup.run_on_cluster()
    assert all(event.applied == ("haze",) for event in setup.of(ItemDone))
    assert setup.of(RunEnd)[0].applied == {"haze": 12}


def test_the_model_of_a_worker_can_be_used_from_the_run():
    transport = FakeTransport(FakeLoader(Judging), wanted=1)
    pool = WorkerPool(transport)
    remote = RemoteRestorer(pool.open(10), transport, 1)
    tiles = np.random.default_rng(3).random((2, 8, 8, 3)).astype(np.float32)
    prior = remote.prior(PriorInput(tiles[0], "auto"))
    assert prior is not None
    assert remote.findings == HAZY
    assert (remote.restore(tiles, prior).pixels == tiles).all()
    assert (remote.card, remote.tile) == (Judging().card, Judging().tile)


def test_results_that_are_up_to_date_are_skipped(setup):
    setup.run_on_cluster()
    assert counts(setup.run_on_cluster()) == (0, 12, 0, ExitCode.OK)


def test_a_result_is_in_the_manifest_before_it_is_published(setup, monkeypatch):
    seen = []
    real = atomic.AtomicWriter.write

    def watched(self, target, data, times):
        seen.append(target.relative_to(setup.out).as_posix() in entries(setup))
        real(self, target, data, times)

    monkeypatch.setattr(atomic.AtomicWriter, "write", watched)
    setup.run_on_cluster()
    assert seen == [True] * 12


@dataclass
class KillingModel(Inverter):
    """Kills its worker at the given restorations, counted over all workers."""

    setup: Any = None
    kill_at: tuple = ()
    calls = 0

    def restore(self, tiles, prior):
        KillingModel.calls += 1
        if KillingModel.calls in self.kill_at:
            self.setup.transport.kill(self.setup.transport.number_of(self))
            threading.Event().wait()  # its thread does nothing more
        return super().restore(tiles, prior)


def use_killing_model(setup, *kill_at, wanted=2):
    KillingModel.calls = 0
    setup.transport = FakeTransport(
        FakeLoader(lambda: KillingModel(setup=setup, kill_at=kill_at)), wanted
    )


@pytest.mark.parametrize("kill_at", [(1,), (4,), (12,), (2, 3, 9)])
def test_lost_workers_cost_only_time(setup, kill_at):
    expected = uninterrupted(setup)
    use_killing_model(setup, *kill_at)
    assert counts(setup.run_on_cluster()) == (12, 0, 0, ExitCode.OK)
    assert setup.results() == expected
    assert warning_codes(setup) == ["worker_lost"] * len(kill_at)
    assert "killed" in setup.of(Warn)[0].message
    assert len(setup.of(ItemDone)) == 12


def test_a_lost_worker_is_replaced(setup):
    use_killing_model(setup, 3, wanted=1)
    assert counts(setup.run_on_cluster()) == (12, 0, 0, ExitCode.OK)


@dataclass
class KilledByBlack(Inverter):
    """Kills its worker at images whose first value is 0."""

    setup: Any = None

    def restore(self, tiles, prior):
        if not tiles[0, 0, 0].any():
            self.setup.transport.kill(self.setup.transport.number_of(self))
            threading.Event().wait()
        return super().restore(tiles, prior)


def test_an_image_that_kills_every_worker_fails_alone(setup):
    from PIL import Image

    black = setup.source / "1" / "4.png"
    Image.fromarray(np.zeros((9, 14, 3), np.uint8)).save(black)
    setup.transport = FakeTransport(FakeLoader(lambda: KilledByBlack(setup=setup)))
    assert counts(setup.run_on_cluster()) == (11, 0, 1, ExitCode.PARTIAL)
    (failed,) = setup.of(ItemFail)
    assert failed.code == "worker_lost"
    assert failed.message.startswith(f"{black}: 3 workers were lost while they restored it")
    assert failed.retryable
    assert "1/4.png" not in setup.results()


class LosesReport(FakeTransport):
    """Loses a worker after its fourth result, before the run receives the report."""

    published = 0

    def on_reply(self, worker, value):
        if isinstance(value, list) and self.published < 4:
            self.published += sum(isinstance(message, ResultPublished) for message in value)
            if self.published >= 4:
                self.kill(worker)
        return value


def test_a_published_result_whose_report_was_lost_is_not_made_again(setup, monkeypatch):
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
    expected = uninterrupted(setup)
    published.clear()
    setup.transport = LosesReport()
    assert counts(setup.run_on_cluster()) == (12, 0, 0, ExitCode.OK)
    assert setup.results() == expected
    assert warning_codes(setup) == ["worker_lost"]
    assert sorted(published) == sorted(name.rpartition("/")[2] for name in NAMES)
    assert sorted(event.id for event in setup.of(ItemDone)) == list(range(12))


def test_in_place_a_result_is_not_restored_a_second_time(setup):
    expected = uninterrupted(setup)
    setup.out = setup.source
    setup.transport = LosesReport()
    assert counts(setup.run_on_cluster(overwrite=True)) == (12, 0, 0, ExitCode.OK)
    assert {name: setup.results()[name] for name in expected} == expected


def test_a_worker_publishes_nothing_without_permission(setup):
    """The run may be gone, or has given the items to another worker."""
    plan = setup.plan()
    setup.out.mkdir()
    worker = worker_module.Worker(FakeLoader())
    worker.load_model()
    started = worker.start(RunContext(SETTINGS, "recipe", plan.source, plan.target), "")
    assert started == WorkerStarted()
    worker.assign(plan.items[:2])
    ready = wait_for(worker, ResultReady, 2)
    assert setup.results() == {}
    worker.grant_publish(ready[0].id, True)
    wait_for(worker, ResultPublished, 1)
    worker.grant_publish(ready[1].id, False)
    worker.stop()
    wait_for(worker, WorkerFinished, 1)
    assert list(setup.results()) == [plan.items[ready[0].id].target.name]


def test_a_worker_whose_run_is_gone_ends(setup, monkeypatch):
    """A waiting thread would keep its process, and the model, in memory for ever."""
    monkeypatch.setattr(worker_module, "_TIMEOUT", 0.2)
    plan = setup.plan()
    setup.out.mkdir()
    worker = worker_module.Worker(FakeLoader())
    worker.load_model()
    worker.start(RunContext(SETTINGS, "recipe", plan.source, plan.target), "")
    worker.assign(plan.items[:1])
    time.sleep(1.0)  # no poll arrives
    (ended,) = wait_for(worker, WorkerFinished, 1)
    assert isinstance(ended.error, DeviceError)
    assert setup.results() == {}


def wait_for(worker, kind, count):
    found = []
    end = time.monotonic() + 10
    while len(found) < count and time.monotonic() < end:
        found += [message for message in worker.poll(0.1, 0.0) if isinstance(message, kind)]
    assert len(found) == count
    return found


@dataclass
class Slow(Inverter):
    def restore(self, tiles, prior):
        time.sleep(0.05)
        return super().restore(tiles, prior)


def test_workers_have_only_seconds_of_work_assigned(setup):
    setup.draw(*(f"more/{number}.png" for number in range(30)))
    setup.transport = FakeTransport(FakeLoader(Slow), wanted=1)
    setup.run_on_cluster()
    assert most_assigned(setup.transport) <= 2.5 / 0.05
    assert len(setup.results()) == 42


def test_a_stopped_run_ends_soon_and_resumes(setup):
    expected = uninterrupted(setup)
    setup.transport = FakeTransport(FakeLoader(Slow))
    stop = StopRequest()
    threading.Thread(target=stop_after_first, args=(setup, stop)).start()
    summary = setup.run_on_cluster(options={"stop": stop})
    assert summary.exit_code is ExitCode.SIGINT
    assert 0 < summary.ok < 12
    assert setup.of(RunEnd)[0].status == "stopped"
    assert len(setup.results()) == summary.ok
    setup.transport = FakeTransport()
    assert counts(setup.run_on_cluster()) == (12 - summary.ok, summary.ok, 0, ExitCode.OK)
    assert setup.results() == expected


def test_fail_fast_stops_all_workers(setup):
    (setup.source / "0" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\ntruncated")
    setup.transport = FakeTransport(FakeLoader(Slow))
    summary = setup.run_on_cluster(options={"fail_fast": True})
    assert summary.failed == 1
    assert summary.ok < 11


def test_failed_items_are_reported_as_in_this_process_and_stop_nothing(setup):
    broken = setup.source / "2" / "5.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\ntruncated")
    assert counts(setup.run_on_cluster()) == (11, 0, 1, ExitCode.PARTIAL)
    (failed,) = setup.of(ItemFail)
    setup.transport = FakeTransport()
    local = ClusterSetup(setup.source, setup.out.with_name("local"))
    local.run()
    assert local.of(ItemFail) == [failed]


def test_a_full_disk_ends_the_run_and_finished_results_stay(setup, monkeypatch):
    expected = uninterrupted(setup)
    real, written = atomic._write, []

    def full(part, data):
        written.append(part)
        if len(written) > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(part, data)

    monkeypatch.setattr(atomic, "_write", full)
    with pytest.raises(DiskFullError):
        setup.run_on_cluster()
    assert setup.of(RunEnd)[0].exit == ExitCode.OUTPUT
    monkeypatch.setattr(atomic, "_write", real)
    setup.transport = FakeTransport()
    assert setup.run_on_cluster().skipped >= 4
    assert setup.results() == expected


class TwoLoaders(FakeTransport):
    """Every second worker loads its model by another loader."""

    def __init__(self, other, wanted=2):
        super().__init__(wanted=wanted)
        self.other = other

    def start_worker(self):
        worker = super().start_worker()
        if worker % 2 == 0:
            self.workers[worker] = worker_module.Worker(self.other)
        return worker


def test_a_worker_with_another_model_is_rejected(setup):
    setup.transport = TwoLoaders(FakeLoader(sha256="another"))
    # Which of the two is ready first decides whose model is the run's.
    assert counts(setup.run_on_cluster()) == (12, 0, 0, ExitCode.OK)
    assert warning_codes(setup) == ["worker_refused"]


def test_a_worker_with_another_version_is_rejected(setup, monkeypatch):
    monkeypatch.setattr(worker_module, "version", lambda name: "9.9")
    with pytest.raises(DeviceError, match=r"has varfix 9\.9, this machine"):
        check_here(setup, monkeypatch)


def check_here(setup, monkeypatch):
    pool = WorkerPool(setup.transport)
    info = pool.open(10)
    monkeypatch.undo()
    error = worker_module.check_worker(info, info)
    assert error is not None
    raise error


def test_a_worker_that_sees_other_folders_is_rejected(setup, monkeypatch):
    """It would write to a disk of its own, where the user would not find the results."""
    real = pool_module._probe_file

    def elsewhere(target):
        return real(type(target)(target.folder.with_name("elsewhere")))

    monkeypatch.setattr(pool_module, "_probe_file", elsewhere)
    setup.out.mkdir()
    original = os.path.isfile
    monkeypatch.setattr(
        os.path,
        "isfile",
        lambda path: "varfix-mark-" not in str(path) and original(path),
    )
    with pytest.raises(OutputDeniedError, match="not the same folder"):
        setup.run_on_cluster()
    assert setup.results() == {}


def missing(warn):
    raise ModelMissingError("nowhere")


def test_a_model_that_no_worker_has_is_an_error_before_the_run(setup):
    setup.transport = FakeTransport(missing)
    with pytest.raises(ModelMissingError, match="nowhere"):
        WorkerPool(setup.transport).open(10)


def test_no_worker_that_is_ready_in_time_is_an_error(setup):
    setup.transport = FakeTransport(lambda warn: threading.Event().wait(5))
    with pytest.raises(DeviceUnavailableError, match="no worker was ready within"):
        WorkerPool(setup.transport).open(0.2)


@dataclass
class Broken(Inverter):
    def restore(self, tiles, prior):
        raise DeviceError("fell off the bus")


def test_a_failed_device_costs_only_its_worker(setup):
    expected = uninterrupted(setup)
    setup.transport = TwoLoaders(FakeLoader(Broken))
    assert setup.run_on_cluster().exit_code in (ExitCode.OK, ExitCode.PARTIAL)
    assert "worker_lost" in warning_codes(setup)
    done = setup.results()
    assert done == {name: expected[name] for name in done}
    assert len(done) == 12 - len(setup.of(ItemFail))


def test_the_run_fails_when_no_worker_is_left(setup):
    setup.transport = FakeTransport(FakeLoader(Broken))
    with pytest.raises(DeviceUnavailableError, match=r"no worker is left \(fell off the bus\)"):
        setup.run_on_cluster()
    assert setup.of(RunEnd)[0].exit == ExitCode.DEVICE
    assert "worker_given_up" in warning_codes(setup)
