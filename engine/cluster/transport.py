"""The transport between a run and the workers of a cluster.

A call names the method of `Worker` itself, not its name as text, so that the type checker knows the
method and its arguments: `transport.send(3, Worker.assign, items)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from varfix.engine.cluster.messages import WorkerInfo, WorkerMessage, WorkerStarted
from varfix.engine.cluster.worker import Worker
from varfix.engine.errors import VarfixError

TICK: Final = 0.2  # seconds that a call of `replies` waits

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass(frozen=True)
class WorkerGone:
    """Value of a reply when the worker was lost."""

    reason: str


ReplyValue = WorkerInfo | WorkerStarted | list[WorkerMessage] | VarfixError | WorkerGone
"""What the methods `load_model`, `start` and `poll` return, or why there is no result."""

ReplyingMethod = Callable[
    Concatenate[Worker, Arguments],
    WorkerInfo | WorkerStarted | list[WorkerMessage] | VarfixError,
]


@dataclass(frozen=True)
class Reply:
    """A worker's reply to a call."""

    worker: int
    value: ReplyValue


class Transport(Protocol):
    """Calls the methods of `Worker` on other machines; used by several threads."""

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

    def send(
        self,
        worker: int,
        method: Callable[Concatenate[Worker, Arguments], None],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> None:
        """Call without waiting for a reply; nothing happens if the worker is gone."""
        ...

    def call_async(
        self,
        worker: int,
        method: ReplyingMethod[Arguments],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> None:
        """Call; `replies` returns the reply."""
        ...

    def replies(self, seconds: float) -> list[Reply]:
        """Wait up to `seconds` for replies.

        Raises:
            DeviceError: The cluster itself is gone.
        """
        ...

    def call(
        self,
        worker: int,
        method: Callable[Concatenate[Worker, Arguments], Result],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> Result:
        """Call and wait for the result.

        Raises:
            DeviceError: The worker failed.
        """
        ...
