"""Stages overlap, memory is limited by bytes, and a failure affects only its item."""

import threading
import time
from dataclasses import dataclass, field

import pytest

from varfix.engine.batch.pipeline import ByteBudget, Pipeline, Stages

PATIENCE = 20.0


@dataclass
class Trace:
    """Stages that write down what happens; functions given here run inside them."""

    cost: dict[int, int] = field(default_factory=dict)
    inside: dict[str, object] = field(default_factory=dict)
    events: list[tuple[str, int]] = field(default_factory=list)
    failed: list[tuple[int, Exception]] = field(default_factory=list)
    flying: dict[int, int] = field(default_factory=dict)
    peak: int = 0
    fatal: type[Exception] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def stages(self):
        return Stages(
            cost=self.price,
            decode=lambda item: self.note("decode", item),
            restore=lambda item, _: self.note("restore", item),
            encode=lambda item, _: self.land(item),
            fail=self.fail,
        )

    def price(self, item):
        return self.cost.get(item, 1)

    def note(self, stage, item):
        with self.lock:
            self.events.append((stage, item))
            if stage == "decode":
                self.flying[item] = self.price(item)
                self.peak = max(self.peak, sum(self.flying.values()))
        self.inside.get(stage, lambda _: None)(item)
        return item

    def land(self, item):
        try:
            self.note("encode", item)
        finally:
            with self.lock:
                self.flying.pop(item)

    def fail(self, item, error):
        with self.lock:
            self.flying.pop(item, None)
            self.failed.append((item, error))
        if self.fatal and isinstance(error, self.fatal):
            raise error

    def of(self, stage):
        return [item for name, item in self.events if name == stage]


def run(trace, items, jobs=2, limit=10, stopped=lambda: False):
    """Run in a thread of its own, so that a deadlock fails the test instead of hanging it."""
    errors = []

    def work():
        try:
            Pipeline(trace.stages(), jobs, limit, stopped).run(items)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive(), "deadlock"
    return errors


def test_every_item_passes_every_stage_and_is_restored_in_order():
    trace = Trace()
    assert run(trace, range(50)) == []
    assert trace.of("restore") == list(range(50))
    assert sorted(trace.of("decode")) == sorted(trace.of("encode")) == list(range(50))


def test_no_items_end_at_once():
    assert run(Trace(), []) == []


@pytest.mark.parametrize("jobs", [1, 4])
def test_no_more_bytes_are_in_flight_than_allowed(jobs):
    trace = Trace({item: 1 + item * 7 % 5 for item in range(60)})
    trace.inside["encode"] = lambda item: time.sleep(0.002 * (item % 3))
    assert run(trace, range(60), jobs, limit=9) == []
    assert len(trace.of("encode")) == 60
    assert trace.peak <= 9


def test_an_item_larger_than_the_limit_is_processed_alone():
    trace = Trace({3: 1000, 4: 1000, 8: 1000})
    company = {}
    trace.inside["restore"] = lambda item: company.update({item: set(trace.flying)})
    assert run(trace, range(10), limit=5) == []
    assert len(trace.of("encode")) == 10
    for large in (3, 4, 8):
        assert company[large] == {large}


def test_many_large_items_with_instant_writes_do_not_deadlock():
    trace = Trace(dict.fromkeys(range(400), 10))
    assert run(trace, range(400), jobs=4, limit=1) == []
    assert len(trace.of("encode")) == 400


def test_waiting_for_bytes_released_meanwhile_ends_at_once():
    budget = ByteBudget(5)
    assert budget.reserve(10)
    assert not budget.reserve(1)
    budget.release(10)
    waiter = threading.Thread(target=budget.wait, args=(10,), daemon=True)
    waiter.start()
    waiter.join(PATIENCE)
    assert not waiter.is_alive()
    assert budget.used == 0


def test_few_items_are_read_ahead_however_many_there_are():
    taken = []

    def endless():
        for item in range(10_000):
            taken.append(item)
            yield item

    seen = []
    trace = Trace()
    trace.inside["restore"] = lambda item: seen.append(len(taken) - item)
    run(trace, endless(), jobs=2, limit=10**9, stopped=lambda: len(seen) >= 30)
    assert max(seen) <= 8
    assert len(taken) < 50


@pytest.mark.parametrize("jobs", [1, 3])
def test_few_restored_items_wait_for_a_slow_disk_however_small_they_are(jobs):
    trace, waiting = Trace(), []

    def count(item):
        waiting.append(item + 1 - len(trace.of("encode")))

    trace.inside |= {"restore": count, "encode": lambda item: time.sleep(0.002)}
    assert run(trace, range(150), jobs=jobs, limit=10**9) == []
    assert len(trace.of("encode")) == 150
    assert max(waiting) <= 8 * jobs + 1


@pytest.mark.parametrize("stage", ["decode", "restore", "encode"])
def test_a_failed_item_fails_alone(stage):
    trace = Trace()

    def fail(item):
        if item in (2, 5):
            raise ValueError(item)

    trace.inside[stage] = fail
    assert run(trace, range(8), limit=3) == []
    assert sorted(item for item, _ in trace.failed) == [2, 5]
    assert all(isinstance(error, ValueError) for _, error in trace.failed)
    finished = set(trace.of("encode")) - {item for item, _ in trace.failed}
    assert finished == set(range(8)) - {2, 5}


@pytest.mark.parametrize("stage", ["decode", "restore", "encode"])
def test_failures_release_their_bytes(stage):
    trace = Trace(dict.fromkeys(range(30), 4))
    trace.inside[stage] = lambda item: 1 / 0
    assert run(trace, range(30), limit=5) == []
    assert len(trace.failed) == 30


@pytest.mark.parametrize("stage", ["decode", "restore", "encode"])
def test_a_fatal_failure_ends_the_run_and_is_raised(stage):
    trace = Trace(fatal=OSError)

    def fail(item):
        if item == 3:
            raise OSError("disk full")
        time.sleep(0.01)

    trace.inside[stage] = fail
    errors = run(trace, range(1000))
    assert [str(error) for error in errors] == ["disk full"]
    assert len(trace.of("restore")) < 30


def test_writes_in_flight_are_finished_before_a_fatal_failure_is_raised():
    trace = Trace(fatal=OSError)
    finished = []
    started = threading.Event()

    def write(item):
        started.set()
        time.sleep(0.2)
        finished.append(item)

    def restore(item):
        if item == 1:
            started.wait(PATIENCE)
            raise OSError("device lost")

    trace.inside |= {"encode": write, "restore": restore}
    assert len(run(trace, range(5))) == 1
    assert finished == [0]


def test_stopping_starts_nothing_new_and_finishes_what_is_restored():
    stop = threading.Event()
    trace = Trace()
    trace.inside["restore"] = lambda item: stop.set() if item == 4 else None
    trace.inside["encode"] = lambda item: time.sleep(0.02)
    assert run(trace, range(100), stopped=stop.is_set) == []
    assert trace.of("restore") == [0, 1, 2, 3, 4]
    assert sorted(trace.of("encode")) == [0, 1, 2, 3, 4]
    assert len(trace.of("decode")) <= 5 + 6


def test_a_stop_before_the_start_starts_nothing():
    trace = Trace()
    assert run(trace, range(5), stopped=lambda: True) == []
    assert trace.events == []


def test_the_next_is_read_and_the_last_written_while_one_is_restored():
    """Each stage waits for its neighbor's: only stages that overlap ever get past this."""
    reading, restoring = threading.Event(), threading.Event()

    def decode(item):
        if item == 2:
            reading.set()

    def restore(item):
        if item == 1:
            assert reading.wait(PATIENCE)
            restoring.set()

    def encode(item):
        if item == 0:
            assert restoring.wait(PATIENCE)

    trace = Trace(inside={"decode": decode, "restore": restore, "encode": encode})
    assert run(trace, range(4)) == []
    assert trace.failed == []
    assert len(trace.of("encode")) == 4


def test_restoring_stays_on_the_callers_thread():
    threads = {"decode": set(), "restore": set(), "encode": set()}
    trace = Trace()
    for stage, names in threads.items():
        trace.inside[stage] = lambda item, names=names: names.add(threading.get_ident())
    Pipeline(trace.stages(), 2, 10, lambda: False).run(range(10))
    assert threads["restore"] == {threading.get_ident()}
    assert threading.get_ident() not in threads["decode"] | threads["encode"]


def test_no_thread_outlives_a_run():
    before = set(threading.enumerate())
    Pipeline(Trace().stages(), 4, 10, lambda: False).run(range(10))
    assert set(threading.enumerate()) == before
