"""Ctrl-C and its relatives: the first asks the run to stop cleanly, the second leaves at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from varfix.engine.errors import ExitCode
from varfix.engine.stop import StopRequest

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

    def on_stop(number: int, frame: FrameType | None) -> None:
        code = _STOP[signal.Signals(number).name]
        if stop.code in (ExitCode.SIGINT, ExitCode.SIGTERM):
            drop()
            os._exit(code)
        stop.ask(code)
        _aside(announce, STOPPING.format(unit))

    def on_status(number: int, frame: FrameType | None) -> None:
        _aside(announce, status())

    handlers: dict[str, Any] = dict.fromkeys(_STOP, on_stop)
    handlers |= dict.fromkeys(_STATUS, on_status)
    former = _install(handlers)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _install(handlers: dict[str, Any]) -> dict[signal.Signals, Any]:
    """Set those handlers that this system has; return what was there before."""
    if threading.current_thread() is not threading.main_thread():
        return {}  # Python lets only the main thread listen
    numbers = {name: getattr(signal, name, None) for name in handlers}
    present = {name: number for name, number in numbers.items() if number is not None}
    # A run started with `nohup` keeps ignoring what its parent told it to ignore.
    heard = {n: v for n, v in present.items() if signal.getsignal(v) is not signal.SIG_IGN}
    return {number: signal.signal(number, handlers[name]) for name, number in heard.items()}


def _aside(announce: Callable[[str], None], text: str) -> None:
    """Speak from another thread: the signal may have hit the main one in the middle of a print."""
    threading.Thread(target=announce, args=(text,), daemon=True).start()
