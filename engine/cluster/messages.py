"""Messages from a worker to its run."""

from __future__ import annotations

from dataclasses import dataclass

from varfix.engine.errors import VarfixError
from varfix.engine.events import Event
from varfix.engine.models.card import ModelCard
from varfix.engine.restoration.restorer import DeviceUsed
from varfix.engine.storage.manifest import Entry


@dataclass(frozen=True)
class WorkerWarning:
    """A warning from loading the model."""

    code: str
    text: str


@dataclass(frozen=True)
class WorkerInfo:
    """A worker that has loaded its model.

    Attributes:
        version: Version of varfix.
        host: Name of its machine.
        pid: Process id.
        card: Card of the model.
        used: Device that runs the model.
        tile: See `Restorer`.
        tile_step: See `Restorer`.
        batch: See `Restorer`.
        sha256: Digest of all of the model's graphs.
        warnings: Warnings from loading the model.
    """

    version: str
    host: str
    pid: int
    card: ModelCard
    used: DeviceUsed
    tile: int
    tile_step: int
    batch: int
    sha256: str
    warnings: tuple[WorkerWarning, ...] = ()

    @property
    def name(self) -> str:
        """Name of the worker in messages."""
        return f"{self.host}:{self.pid}"


@dataclass(frozen=True)
class WorkerStarted:
    """The worker processes the items that are assigned to it."""


@dataclass(frozen=True)
class ResultReady:
    """A result waits for permission to be published."""

    id: int
    entry: Entry


@dataclass(frozen=True)
class ResultPublished:
    """A result is in its place."""

    id: int


@dataclass(frozen=True)
class WorkerFinished:
    """The worker sends nothing more.

    Attributes:
        error: The error that ends the run, if any.
    """

    error: VarfixError | None


WorkerMessage = Event | ResultReady | ResultPublished | WorkerFinished
