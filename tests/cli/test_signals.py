"""The first signal asks, the second one leaves."""

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


class Heard:
    """Collects announcements, which come from another thread."""

    def __init__(self):
        self.texts = []
        self.news = threading.Event()

    def __call__(self, text):
        self.texts.append(text)
        self.news.set()


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, ExitCode.SIGINT),
        (signal.SIGTERM, ExitCode.SIGTERM),
        (signal.SIGHUP, ExitCode.SIGTERM),
    ],
)
def test_the_first_signal_asks_and_says_so(number, code):
    stop, heard = StopRequest(), Heard()
    before = signal.getsignal(number)
    with handle_signals(stop, heard, str, pytest.fail):
        os.kill(os.getpid(), number)
        assert stop.wait(5)
        assert heard.news.wait(5)
    assert heard.texts == [STOPPING.format("image")]
    assert stop.code == code
    assert signal.getsignal(number) is before


def test_a_signal_is_heard_while_the_main_thread_is_deaf():
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


def test_a_status_signal_asks_for_nothing_but_a_line():
    stop, heard = StopRequest(), Heard()
    with handle_signals(stop, heard, lambda: "half-way", pytest.fail):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard.news.wait(5)
    assert heard.texts == ["half-way"]
    assert not stop.is_set()


def test_nobody_has_asked_at_first():
    assert not StopRequest().is_set()
    assert StopRequest().code is None


def test_the_first_reason_counts():
    stop = StopRequest()
    stop.request(ExitCode.SIGPIPE)
    stop.request(ExitCode.SIGINT)
    assert stop.code == ExitCode.SIGPIPE


def test_what_the_parent_told_us_to_ignore_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with handle_signals(StopRequest(), pytest.fail, str, pytest.fail):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_cannot_listen_and_is_not_hindered():
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


def test_the_second_signal_drops_unfinished_files_and_leaves_at_once():
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
