"""A request to stop a run: asked for once, by whoever comes first, with the exit code it means."""

from __future__ import annotations

import threading

from varfix.engine.errors import ExitCode


class StopRequest:
    """Whether and why a run was asked to stop.

    Attributes:
        code: Exit code of the reason, None while nobody has asked.
    """

    def __init__(self) -> None:
        self.code: ExitCode | None = None
        self._asked = threading.Event()

    def ask(self, code: ExitCode) -> None:
        """Ask the run to start nothing new; the first reason is the one that counts."""
        if self.code is None:
            self.code = code
        self._asked.set()

    def is_set(self) -> bool:
        """Tell whether somebody has asked."""
        return self._asked.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait until somebody asks; tell whether that happened in time."""
        return self._asked.wait(seconds)
