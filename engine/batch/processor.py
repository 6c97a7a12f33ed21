"""The processor of items: images and videos read, restored, encoded and published.

A processor knows its run only through a port, so that it is the same object in this process and on
another machine (engine/README.md). The failure of one item is reported and ends nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from varfix.engine.batch.clip_task import ClipTask
from varfix.engine.batch.context import PixelObserver, RunContext, RunPort, failure_event
from varfix.engine.batch.image_task import ImageTask, TaskEnvironment
from varfix.engine.batch.item import Item
from varfix.engine.batch.pipeline import Pipeline, Stages
from varfix.engine.errors import (
    DeviceError,
    HostMemoryError,
    Interrupted,
    ItemError,
    ModelError,
    OutputError,
    VarfixError,
)
from varfix.engine.events import ItemDone, ItemStart
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.settings.types import Settings
from varfix.engine.system.display_names import printable
from varfix.engine.system.memory import default_queue_bytes


class ItemTask(Protocol):
    """The stages of one item; each runs once, in the order of the methods."""

    def open(self) -> None:
        """Read the source."""
        ...

    def restore(self) -> None:
        """Restore it."""
        ...

    def write(self) -> None:
        """Encode and publish the result."""
        ...

    def report(self) -> ItemDone:
        """Return the event of the finished item."""
        ...


class ItemProcessor:
    """Processes the items of one run with one model."""

    def __init__(
        self,
        context: RunContext,
        restorer: Restorer,
        port: RunPort,
        observe: PixelObserver | None = None,
    ) -> None:
        """Create the processor.

        Args:
            context: What all results share.
            restorer: The model.
            port: How the processor reports to the run.
            observe: Receives each restored image, on the thread that restores.
        """
        self._context, self._port = context, port
        self._environment = TaskEnvironment(context, restorer, port, observe)

    def run(self, items: Iterable[Item], ready: Callable[[], bool] = lambda: True) -> None:
        """Process `items`, several at a time; see `Pipeline.run` for `ready`.

        Raises:
            OutputError: The disk is full or cannot be written.
            DeviceError: The device failed permanently.
            ModelError: The model fits none of the images.
        """
        stages = Stages(
            cost=lambda item: item.cost,
            decode=self._open,
            restore=self._restore,
            encode=self._write,
            fail=self._fail,
        )
        settings, is_stopping = self._context.settings, self._port.is_stopping
        Pipeline(stages, jobs_of(settings), queue_of(settings), is_stopping).run(items, ready)

    def _open(self, item: Item) -> ItemTask:
        width, height = item.size or (None, None)
        self._port.emit(
            ItemStart(
                id=item.id,
                src=printable(item.source.event_name),
                dst=printable(item.target.event_name),
                width=width,
                height=height,
                frames=item.frames,
            )
        )
        kind = ClipTask if item.is_video else ImageTask
        task: ItemTask = kind(item, self._environment)
        task.open()
        return task

    def _restore(self, item: Item, task: ItemTask) -> ItemTask:
        task.restore()
        return task

    def _write(self, item: Item, task: ItemTask) -> None:
        task.write()
        self._port.emit(task.report())

    def _fail(self, item: Item, error: Exception) -> None:
        """Report the failure of an item; raise the errors that end the run."""
        if isinstance(error, Interrupted):
            return  # the run was stopped in the middle of a video
        known = as_varfix(error)
        if isinstance(known, (OutputError, DeviceError, ModelError)):
            raise known from error
        self._port.emit(failure_event(self._context.label(item), item, known))


class LocalExecutor:
    """Executes the items of a run in this process (see `Executor`)."""

    size = 1

    def __init__(self, restorer: Restorer, observe: PixelObserver | None) -> None:
        self._restorer, self._observe = restorer, observe

    def run(self, items: Sequence[Item], context: RunContext, port: RunPort) -> None:
        """Restore and publish all items; see `ItemProcessor.run` for what it raises."""
        ItemProcessor(context, self._restorer, port, self._observe).run(items)


def jobs_of(settings: Settings) -> int:
    """Return the number of decoder threads, and of encoder threads."""
    return settings.io.jobs or min(4, os.cpu_count() or 1)


def queue_of(settings: Settings) -> int:
    """Return the limit for images in flight, in bytes."""
    queue = settings.io.queue_mb
    return default_queue_bytes() if queue is None else queue << 20


def as_varfix(error: Exception) -> VarfixError:
    """Return the error itself, or the error that it means for an item."""
    if isinstance(error, VarfixError):
        return error
    if isinstance(error, MemoryError):
        return HostMemoryError("does not fit into memory", hint="close other programs")
    return ItemError(
        f"unexpected error ({type(error).__name__}: {error})",
        hint="please report this; VARFIX_DEBUG=1 writes a traceback",
    )
