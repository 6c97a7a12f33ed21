"""What a run and the processing of its items share: options, context, port, summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from varfix.engine.batch.item import Item
from varfix.engine.batch.stop import StopRequest
from varfix.engine.errors import (
    ExitCode,
    HostMemoryError,
    OutputError,
    SourceReadError,
    VarfixError,
    WorkerLostError,
)
from varfix.engine.events import Event, ItemFail
from varfix.engine.image.decoded_image import Floats
from varfix.engine.settings.types import Settings
from varfix.engine.storage.identity import Identity
from varfix.engine.storage.manifest import Entry
from varfix.engine.storage.result_history import ResultHistory
from varfix.engine.storage.store import Store
from varfix.engine.system.display_names import printable, single_line
from varfix.engine.system.file_times import FileTimes, times_of

PixelObserver = Callable[[int, Floats, Floats], None]
"""Receives the id of an image, its pixels and the restored pixels: (H, W, 3) float32 in [0, 1]."""

_RETRYABLE: Final = (SourceReadError, HostMemoryError, OutputError, WorkerLostError)


@dataclass(frozen=True)
class RunContext:
    """What all results of a run share.

    Attributes:
        settings: Resolved settings.
        fingerprint: Fingerprint of model and settings.
        source: Where the sources are.
        target: Where the results go.
    """

    settings: Settings
    fingerprint: str
    source: Store
    target: Store

    def label(self, item: Item) -> str:
        """Return the name of an item in messages, as the user could type it."""
        return single_line(item.source.given or self.source.label(item.source.name))

    def times_for(self, source: Identity) -> FileTimes | None:
        """Return the times that the result of a source gets; None = now."""
        return times_of(source) if self.settings.output.times == "keep" else None

    def publish(self, item: Item, data: bytes, source: Identity) -> None:
        """Write the result of an image, read from `source`; see `Store.publish`."""
        target, times = item.target, self.times_for(source)
        if target.path is not None and _is_alias(target.path, item.source.path):
            target.path.unlink()  # following the link would replace the source
        self.target.publish(target.name, data, overwrite=target.replaces, times=times)


def _is_alias(target: Path, source: Path | None) -> bool:
    """Return whether a result's path is a link to its own source, and not the source itself."""
    if source is None:
        return False
    with suppress(OSError):
        same_entry = target.name == source.name and target.parent.samefile(source.parent)
        return target.is_symlink() and not same_entry and target.samefile(source)
    return False


class RunPort(Protocol):
    """How processing reports to its run; used by several threads at once."""

    def emit(self, event: Event) -> None:
        """Report an event."""
        ...

    def is_stopping(self) -> bool:
        """Return whether nothing new may be started."""
        ...

    def publish(self, item: Item, entry: Callable[[], Entry], write: Callable[[], None]) -> None:
        """Record a result in the manifest by what `entry` returns, and publish it by `write`."""
        ...


class ClusterRunPort(RunPort, Protocol):
    """How a cluster reports to its run."""

    def is_published(self, item: Item) -> bool:
        """Return whether the result of an item is in its place and in the manifest."""
        ...


class Executor(Protocol):
    """Restores and publishes the items of a run."""

    @property
    def size(self) -> int:
        """Number of workers."""
        ...

    def run(self, items: Sequence[Item], context: RunContext, port: ClusterRunPort) -> None:
        """Restore and publish all items; see `ItemProcessor.run` for what it raises."""
        ...


@dataclass(frozen=True)
class RunOptions:
    """How to execute a plan.

    Attributes:
        command: Name of the command, for the first event.
        model_sha256: Digest of all of the model's graphs.
        fail_fast: Stop after the first failure.
        stop: Once set, nothing new is started; its code is the exit code of the run.
        executor: Restores the items; None for this process.
        observe: Receives each restored image, before and after, on the caller's thread.
        history: Receives the result of a plan without a manifest; None records nothing.
    """

    command: str
    model_sha256: str
    fail_fast: bool = False
    stop: StopRequest = field(default_factory=StopRequest)
    executor: Executor | None = None
    observe: PixelObserver | None = None
    history: ResultHistory | None = None


@dataclass(frozen=True)
class RunSummary:
    """How a run ended."""

    ok: int
    skipped: int
    failed: int
    seconds: float
    failures: tuple[ItemFail, ...]
    exit_code: ExitCode


def failure_event(label: str, item: Item, error: VarfixError) -> ItemFail:
    """Return the event for an item, called `label` in messages, that failed with `error`."""
    return ItemFail(
        id=item.id,
        src=printable(item.source.event_name),
        code=error.code,
        message=f"{label}: {error.message}",
        hint=error.hint or None,
        retryable=isinstance(error, _RETRYABLE),
    )
