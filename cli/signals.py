"""Ctrl-C and its relatives: the first asks the run to stop cleanly, the second leaves at once."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from varfix.engine.batch.stop import StopRequest
from varfix.engine.errors import ExitCode

STOPPING = (
    "Stopping after the current {}. Ctrl-C again to quit now. Run the same command to continue."
)

# SIGHUP: the terminal is gone, which ends the run as SIGTERM does.
_STOP = {"SIGINT": ExitCode.SIGINT, "SIGTERM": ExitCode.SIGTERM, "SIGHUP": ExitCode.SIGTERM}
_STATUS = ("SIGUSR1", "SIGINFO")


@contextmanager
def listening(
    stop: StopRequest,
    announce: Callable[[str], None],
    status: Callable[[], str],
    drop: Callable[[], None],
    unit: str = "image",
) -> Iterator[None]:
    """Answer signals while the block runs, and restore the former handlers afterwards.

    Args:
        stop: Receives the first SIGINT, SIGTERM or SIGHUP.
        announce: Shows a line to people.
        status: Makes the line that SIGUSR1 (and SIGINFO where it exists) shows.
        drop: Removes temporary files; called before leaving at once on a second signal.
        unit: What is finished before the run stops, as people call it.
    """

    def heard(number: signal.Signals) -> None:
        if number.name in _STATUS:
            _aside(announce, status())
            return
        code = _STOP[number.name]
        if stop.code in (ExitCode.SIGINT, ExitCode.SIGTERM):
            drop()
            os._exit(code)
        stop.ask(code)
        _aside(announce, STOPPING.format(unit))

    if threading.current_thread() is not threading.main_thread():
        yield  # Python lets only the main thread listen
        return
    former = _install()
    try:
        with _told(heard, frozenset(former)):
            yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _install() -> dict[signal.Signals, Any]:
    """Take over those signals that this system has; return what was there before."""
    numbers = (getattr(signal, name, None) for name in (*_STOP, *_STATUS))
    # A run started with `nohup` keeps ignoring what its parent told it to ignore.
    present = (n for n in numbers if n is not None and signal.getsignal(n) is not signal.SIG_IGN)
    return {number: signal.signal(number, _noticed) for number in present}


def _noticed(number: int, frame: FrameType | None) -> None:
    """Do nothing here: see `_told`."""


@contextmanager
def _told(
    heard: Callable[[signal.Signals], None], wanted: frozenset[signal.Signals]
) -> Iterator[None]:
    """Tell `heard` of signals from a thread that does nothing else.

    Python answers signals on the main thread alone, which may be inside a model for half a minute,
    or have gone to sleep a moment after it looked.
    """
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)

    def listen() -> None:
        while numbers := ours.recv(16):
            for number in numbers:
                if number in wanted:
                    heard(signal.Signals(number))

    former = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        pythons.close()
        listener.join()
        ours.close()


def _aside(announce: Callable[[str], None], text: str) -> None:
    """Speak from yet another thread: one who does not read must not hold up the next signal."""
    threading.Thread(target=announce, args=(text,), daemon=True).start()
