"""Values pass between threads in order, and so do failures."""

import threading
import time

import pytest

from varfix.engine.system.background import BackgroundWriter, Prefetcher


def test_values_arrive_in_order():
    assert list(Prefetcher(iter(range(50)), 3)) == list(range(50))


def test_only_so_many_are_made_ahead():
    made = []

    def numbers():
        for number in range(100):
            made.append(number)
            yield number

    ahead = Prefetcher(numbers(), 3)
    time.sleep(0.1)
    assert len(made) <= 5
    ahead.close()
    assert len(made) < 100


def test_a_failure_arrives_after_the_values_before_it():
    def failing():
        yield 1
        raise ValueError("torn")

    values = iter(Prefetcher(failing(), 3))
    assert next(values) == 1
    with pytest.raises(ValueError, match="torn"):
        next(values)


def test_closing_closes_the_source():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    ahead = Prefetcher(endless(), 2)
    next(iter(ahead))
    ahead.close()
    assert closed.is_set()


def test_work_is_done_in_order_and_finished():
    done = []
    behind = BackgroundWriter(done.append, 2)
    for number in range(20):
        behind.put(number)
    behind.finish()
    assert done == list(range(20))


def test_a_failure_of_the_work_is_raised_to_who_hands_over():
    def fail(value):
        raise ValueError(f"cannot take {value}")

    behind = BackgroundWriter(fail, 1)
    with pytest.raises(ValueError, match="cannot take 0"):
        for number in range(100):
            behind.put(number)
            time.sleep(0.01)
    behind.settle()
    with pytest.raises(ValueError, match="cannot take 0"):
        behind.finish()


def test_settling_works_off_what_waits():
    done = []
    behind = BackgroundWriter(lambda value: (time.sleep(0.01), done.append(value)), 5)
    for number in range(5):
        behind.put(number)
    behind.settle()
    assert done == list(range(5))
