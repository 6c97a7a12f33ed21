"""A request to stop a run, with the exit code of the first reason."""

from __future__ import annotations

import threading

from varfix.engine.errors import ExitCode


class StopRequest:
    """The state of a run's request to stop; used by several threads.

    Attributes:
        code: Exit code of the first reason; None while no stop is requested.
    """

    def __init__(self) -> None:
        self.code: ExitCode | None = None
        self._requested = threading.Event()

    def request(self, code: ExitCode) -> None:
        """Request that the run starts nothing new; later reasons change nothing."""
        if self.code is None:
            self.code = code
        self._requested.set()

    def is_set(self) -> bool:
        """Return whether a stop is requested."""
        return self._requested.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for a request; return whether there was one in time."""
        return self._requested.wait(seconds)
