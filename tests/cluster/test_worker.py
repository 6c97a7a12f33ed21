"""A worker publishes with permission only, and ends with its run."""

import time

from support.fake_cluster import FakeLoader
from support.runs import SETTINGS

from varfix.engine.batch.context import RunContext
from varfix.engine.cluster import worker as worker_module
from varfix.engine.cluster.messages import (
    ResultPublished,
    ResultReady,
    WorkerFinished,
    WorkerStarted,
)
from varfix.engine.errors import DeviceError


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
