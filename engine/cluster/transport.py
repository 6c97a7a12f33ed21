"""How a run's process speaks with the workers of a cluster, wherever they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

TICK: Final = 0.2  # seconds that answers are waited for at a time


@dataclass(frozen=True)
class Lost:
    """Instead of an answer: the worker is gone."""

    reason: str


@dataclass(frozen=True)
class Answer:
    """What a worker says to a call."""

    worker: int
    method: str
    value: Any


class Link(Protocol):
    """Calls to the methods of `station.Station`, wherever it is; used by several threads."""

    @property
    def wanted(self) -> int:
        """How many workers there should be."""
        ...

    def hire(self) -> int:
        """Have a worker started, and return its number; it may take its time."""
        ...

    def dismiss(self, worker: int) -> None:
        """Make sure that a worker does nothing more."""
        ...

    def send(self, worker: int, method: str, *facts: Any) -> None:
        """Call without waiting for an answer."""
        ...

    def ask(self, worker: int, method: str, *facts: Any) -> None:
        """Call; the answer is among `answers`."""
        ...

    def answers(self, seconds: float) -> list[Answer]:
        """Wait so long for answers.

        Raises:
            DeviceError: The cluster itself is gone.
        """
        ...

    def call(self, worker: int, method: str, *facts: Any) -> Any:
        """Call and wait."""
        ...
