"""Threads are as many as the machine, its container and the user allow."""

import os
import sys

import pytest

from varfix.engine.errors import ConfigError
from varfix.onnx.inference import hardware
from varfix.onnx.inference.runtime import CPU, SessionPlan, start


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is Linux's")
def test_threads_follow_the_cpus_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert hardware.usable_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_two_threads_of_a_core_count_once(tmp_path):
    for cpu in (0, 1):
        folder = tmp_path / f"cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text("0-1\n")
    assert hardware._siblings(tmp_path, 0) == hardware._siblings(tmp_path, 1)
    assert hardware._siblings(tmp_path, 2) != hardware._siblings(tmp_path, 3)


@pytest.mark.parametrize(
    ("text", "cpus"), [("150000 100000\n", 2), ("50000 100000", 1), ("max 100000", sys.maxsize)]
)
def test_a_containers_quota_counts(tmp_path, text, cpus):
    (tmp_path / "cpu.max").write_text(text)
    assert hardware._quota(tmp_path / "cpu.max") == cpus
    assert hardware._quota(tmp_path / "absent") == sys.maxsize


@pytest.mark.parametrize("text", ["abc", "0", "-1", "2.5"])
def test_a_limit_of_threads_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv(hardware.THREADS_VARIABLE, text)
    with pytest.raises(ConfigError, match=f'VARFIX_THREADS: .* positive integer, got "{text}"'):
        hardware.usable_cores()


@pytest.mark.parametrize(("text", "most"), [("", None), (" 1 ", 1)])
def test_a_limit_of_threads_may_have_spaces_or_be_empty(monkeypatch, text, most):
    monkeypatch.delenv(hardware.THREADS_VARIABLE, raising=False)
    all_cores = hardware.usable_cores()
    monkeypatch.setenv(hardware.THREADS_VARIABLE, text)
    assert hardware.usable_cores() == (most or all_cores)


def test_a_wrong_limit_of_threads_is_no_fault_of_the_model(monkeypatch, shelf):
    monkeypatch.setenv(hardware.THREADS_VARIABLE, "abc")
    with pytest.raises(ConfigError, match="VARFIX_THREADS"):
        start(shelf.foreign(), SessionPlan(CPU))
