"""A lost worker costs time and nothing else."""

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from support.fake_cluster import NAMES, FakeLoader, FakeTransport, TwoLoaders, warning_codes
from support.runs import Inverter, counts, uninterrupted

from varfix.engine.cluster.messages import ResultPublished
from varfix.engine.errors import DeviceError, DeviceUnavailableError, ExitCode
from varfix.engine.events import ItemDone, ItemFail, RunEnd, Warn
from varfix.engine.system import atomic


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
