"""Signals: outside of a run they end the program cleanly; a run handles them itself.

During a run, the first Ctrl-C stops it cleanly, and the second exits immediately.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from varfix.engine.batch.stop import StopRequest
from varfix.engine.errors import ExitCode

STOPPING = (
    "stopping after the current {}; press Ctrl-C again to quit now, run the same command to resume"
)

# SIGHUP (the terminal was closed) is treated as SIGTERM.
_STOP = {"SIGINT": ExitCode.SIGINT, "SIGTERM": ExitCode.SIGTERM, "SIGHUP": ExitCode.SIGTERM}
_STATUS = ("SIGUSR1", "SIGINFO")


def exit_on_termination() -> None:
    """Turn SIGTERM and SIGHUP into SystemExit, so that temporary files are removed.

    `handle_signals` replaces these handlers during a run.
    """
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _exit)


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(int(ExitCode.SIGTERM))


@contextmanager
def handle_signals(
    stop: StopRequest,
    announce: Callable[[str], None],
    status: Callable[[], str],
    drop: Callable[[], None],
    unit: str = "image",
) -> Iterator[None]:
    """Handle signals while the block runs, and restore the former handlers afterwards.

    Args:
        stop: Receives the first SIGINT, SIGTERM or SIGHUP.
        announce: Prints a line.
        status: Returns the status line for SIGUSR1 (and SIGINFO where it exists).
        drop: Removes temporary files; called before the immediate exit on a second signal.
        unit: Name of the item that is finished before the run stops.
    """

    def handle(number: signal.Signals) -> None:
        if number.name in _STATUS:
            _announce(announce, status())
            return
        code = _STOP[number.name]
        if stop.code in (ExitCode.SIGINT, ExitCode.SIGTERM):
            drop()
            os._exit(code)
        stop.request(code)
        _announce(announce, STOPPING.format(unit))

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread can install handlers
        return
    former = _install()
    try:
        with _dispatched(handle, frozenset(former)):
            yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _install() -> dict[signal.Signals, Any]:
    """Install handlers for the signals of this system; return the former handlers."""
    numbers = (getattr(signal, name, None) for name in (*_STOP, *_STATUS))
    # Signals that the parent process ignores (`nohup`) stay ignored.
    present = (n for n in numbers if n is not None and signal.getsignal(n) is not signal.SIG_IGN)
    return {number: signal.signal(number, _ignore) for number in present}


def _ignore(number: int, frame: FrameType | None) -> None:
    """Do nothing; `_dispatched` handles the signal."""


@contextmanager
def _dispatched(
    handle: Callable[[signal.Signals], None], wanted: frozenset[signal.Signals]
) -> Iterator[None]:
    """Call `handle` from a thread of its own.

    Python runs signal handlers on the main thread only, which may be inside a model for half a
    minute, or blocked.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)

    def listen() -> None:
        while numbers := reader.recv(16):
            for number in numbers:
                if number in wanted:
                    handle(signal.Signals(number))

    former = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    listener = threading.Thread(target=listen, name="signals", daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(former)
        writer.close()
        listener.join()
        reader.close()


def _announce(announce: Callable[[str], None], text: str) -> None:
    """Print from another thread: a blocked stderr must not delay the next signal."""
    threading.Thread(target=announce, args=(text,), daemon=True).start()
