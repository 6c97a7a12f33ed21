"""The first signal requests a stop, the second exits."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from varfix.cli.signals import STOPPING, handle_signals
from varfix.engine.batch.stop import StopRequest
from varfix.engine.errors import ExitCode

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


class Announcements:
    """Collects announcements, which come from another thread."""

    def __init__(self):
        self.texts = []
        self.received = threading.Event()

    def __call__(self, text):
        self.texts.append(text)
        self.received.set()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, ExitCode.SIGINT),
        (signal.SIGTERM, ExitCode.SIGTERM),
        (signal.SIGHUP, ExitCode.SIGTERM),
    ],
)
def test_the_first_signal_requests_a_stop_and_announces_it(number, code):
    stop, announced = StopRequest(), Announcements()
    before = signal.getsignal(number)
    with handle_signals(stop, announced, str, pytest.fail):
        os.kill(os.getpid(), number)
        assert stop.wait(5)
        assert announced.received.wait(5)
    assert announced.texts == [STOPPING.format("image")]
    assert stop.code == code
    assert signal.getsignal(number) is before


def test_a_signal_is_handled_while_the_main_thread_is_blocked():
    """As it is inside a model: Python's own handlers have to wait for it."""
    code = """
import os, signal, sys, threading, time
from varfix.cli.signals import handle_signals
from varfix.engine.batch.stop import StopRequest
kill = lambda *text: os.kill(os.getpid(), signal.SIGINT)
with handle_signals(StopRequest(), kill, str, lambda: os.write(1, b"dropped")):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    kill()
    time.sleep(30)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert (out.returncode, out.stdout) == (ExitCode.SIGINT, b"dropped")


def test_a_status_signal_only_prints_a_line():
    stop, announced = StopRequest(), Announcements()
    with handle_signals(stop, announced, lambda: "half-way", pytest.fail):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert announced.received.wait(5)
    assert announced.texts == ["half-way"]
    assert not stop.is_set()


def test_no_stop_is_requested_at_first():
    assert not StopRequest().is_set()
    assert StopRequest().code is None


def test_the_first_reason_counts():
    stop = StopRequest()
    stop.request(ExitCode.SIGPIPE)
    stop.request(ExitCode.SIGINT)
    assert stop.code == ExitCode.SIGPIPE


def test_signals_that_the_parent_ignores_stay_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_signals(StopRequest(), pytest.fail, str, pytest.fail):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_handles_no_signals_and_is_not_disturbed():
    errors = []

    def work():
        try:
            with handle_signals(StopRequest(), pytest.fail, str, pytest.fail):
                pass
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors


def test_the_second_signal_removes_temporary_files_and_exits():
    code = """
import os, signal, sys, time
from varfix.cli.signals import handle_signals
from varfix.engine.batch.stop import StopRequest
with handle_signals(StopRequest(), lambda text: None, str, lambda: os.write(1, b"dropped")):
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20)
    assert out.returncode == ExitCode.SIGINT
    assert out.stdout == b"dropped"
