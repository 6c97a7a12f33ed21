"""A run on a cluster ends as a run in this process does, whatever happens to the workers."""

import errno
import json
import threading
import time
from dataclasses import dataclass

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
from support.runs import Inverter, counts, uninterrupted

from varfix.engine.batch.stop import StopRequest
from varfix.engine.cluster.pool import WorkerPool
from varfix.engine.cluster.remote_restorer import RemoteRestorer
from varfix.engine.errors import DiskFullError, ExitCode
from varfix.engine.events import ItemDone, ItemFail, ItemStart, RunEnd, RunStart
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.system import atomic


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
