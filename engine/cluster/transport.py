"""The transport between a run and the workers of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

TICK: Final = 0.2  # seconds that a call of `replies` waits

WorkerMethod = Literal[
    "load_model", "start", "assign", "grant_publish", "poll", "stop", "prior", "restore"
]
"""Methods of `worker.Worker` that a run calls."""


@dataclass(frozen=True)
class WorkerGone:
    """Value of a reply when the worker was lost."""

    reason: str


@dataclass(frozen=True)
class Reply:
    """A worker's reply to a call."""

    worker: int
    method: WorkerMethod
    value: Any


class Transport(Protocol):
    """Calls the methods of `worker.Worker` on other machines; used by several threads."""

    @property
    def wanted(self) -> int:
        """Number of workers to start."""
        ...

    def start_worker(self) -> int:
        """Start a worker and return its number; the worker may need time to start."""
        ...

    def stop_worker(self, worker: int) -> None:
        """Kill a worker, if it is alive, and drop its pending replies."""
        ...

    def send(self, worker: int, method: WorkerMethod, *arguments: Any) -> None:
        """Call without waiting for a reply; nothing happens if the worker is gone."""
        ...

    def call_async(self, worker: int, method: WorkerMethod, *arguments: Any) -> None:
        """Call; `replies` returns the reply."""
        ...

    def replies(self, seconds: float) -> list[Reply]:
        """Wait up to `seconds` for replies.

        Raises:
            DeviceError: The cluster itself is gone.
        """
        ...

    def call(self, worker: int, method: WorkerMethod, *arguments: Any) -> Any:
        """Call and wait for the reply."""
        ...
