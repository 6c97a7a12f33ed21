"""A worker of a cluster: a model, and a processor of items that a run controls from afar.

A worker publishes its results itself, but each result only when the run has recorded it in the
manifest and permits it: the order that survives an interruption (see `batch.run.Run.publish`). A
worker whose run is gone, or has given its items to another worker, publishes nothing more.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import Final

from varfix.engine.batch.context import RunContext
from varfix.engine.batch.item import Item
from varfix.engine.batch.processor import ItemProcessor
from varfix.engine.cluster.messages import (
    ResultPublished,
    ResultReady,
    WorkerFinished,
    WorkerInfo,
    WorkerMessage,
    WorkerStarted,
    WorkerWarning,
)
from varfix.engine.errors import (
    DeviceError,
    Interrupted,
    ModelError,
    OutputDeniedError,
    OutputError,
    VarfixError,
)
from varfix.engine.events import Event
from varfix.engine.restoration.findings import Findings
from varfix.engine.restoration.prior_input import PriorInput
from varfix.engine.restoration.restorer import Floats, ModelLoader, RestoredTiles, Restorer
from varfix.engine.storage.manifest import Entry

_TIMEOUT: Final = 300.0  # seconds without a poll after which the run counts as gone
_CHECKS: Final = 10  # checks for that within the timeout


class Worker:
    """The worker; the run calls its methods, several at once."""

    def __init__(self, loader: ModelLoader) -> None:
        self._loader = loader
        self._restorer: Restorer | None = None
        self._warnings: list[WorkerWarning] = []
        self._inbox: SimpleQueue[Item | None] = SimpleQueue()
        self._messages: SimpleQueue[WorkerMessage] = SimpleQueue()
        self._permissions: dict[int, SimpleQueue[bool]] = {}
        self._stop = threading.Event()
        self._last_poll = time.monotonic()

    def load_model(self) -> WorkerInfo | VarfixError:
        """Load the model; return what the worker has, or the error."""
        try:
            opened = self._loader(self._warn)
        except VarfixError as error:
            return error
        restorer = self._restorer = opened.restorer
        return WorkerInfo(
            version=version("varfix"),
            host=platform.node(),
            pid=os.getpid(),
            card=restorer.card,
            used=restorer.used,
            tile=restorer.tile,
            tile_step=restorer.tile_step,
            batch=restorer.batch,
            sha256=opened.sha256,
            warnings=tuple(self._warnings),
        )

    def _warn(self, code: str, text: str) -> None:
        self._warnings.append(WorkerWarning(code, text))

    def prior(self, prior_input: PriorInput) -> Floats | None:
        """Run the model's prior; see `Restorer`."""
        assert self._restorer is not None
        return self._restorer.prior(prior_input)

    def findings(self) -> Findings | None:
        """Return what `prior` found last; see `Restorer`."""
        assert self._restorer is not None
        return self._restorer.findings

    def restore(self, tiles: Floats, prior: Floats | None) -> RestoredTiles:
        """Run the model; see `Restorer`."""
        assert self._restorer is not None
        return self._restorer.restore(tiles, prior)

    def start(self, context: RunContext, probe_file: str) -> WorkerStarted | VarfixError:
        """Start to process items, or return why that is impossible.

        Args:
            context: What all results of the run share.
            probe_file: Path of a file that the run has just created next to its manifest; the
                worker must see it. Empty without a folder.
        """
        folders = [store.folder for store in (context.source, context.target) if store.folder]
        missing = [os.fspath(folder) for folder in folders if not folder.is_dir()]
        if not missing and probe_file and not os.path.isfile(probe_file):  # noqa: PTH113 (a name)
            missing = [os.fspath(folders[-1])]
        if missing:
            return OutputDeniedError(
                f"{missing[0]}: not the same folder on {platform.node()}",
                hint="mount the folders under the same paths on all machines",
            )
        assert self._restorer is not None
        processor = ItemProcessor(context, self._restorer, self)
        threading.Thread(target=self._work, args=(processor,), daemon=True).start()
        return WorkerStarted()

    def assign(self, items: Sequence[Item]) -> None:
        """Add items to process."""
        for item in items:
            self._permissions[item.id] = SimpleQueue()
            self._inbox.put(item)

    def grant_publish(self, number: int, granted: bool) -> None:
        """Permit or refuse the publication of a result."""
        self._permissions[number].put(granted)

    def stop(self) -> None:
        """Start nothing new; finish what is being written."""
        self._stop.set()
        self._inbox.put(None)

    def poll(self, wait: float, linger: float) -> list[WorkerMessage]:
        """Return the messages since the last call.

        Args:
            wait: Seconds to wait for a first message.
            linger: Seconds to wait for more messages after the first.
        """
        self._last_poll = time.monotonic()
        try:
            messages = [self._messages.get(timeout=wait)]
        except Empty:
            return []
        time.sleep(linger)
        while not self._messages.empty():
            messages.append(self._messages.get())
        return messages

    def _work(self, processor: ItemProcessor) -> None:
        error: VarfixError | None = None
        try:
            processor.run(iter(self._inbox.get, None), lambda: not self._inbox.empty())
        except VarfixError as fatal:
            error = fatal
        except Exception as unexpected:
            error = DeviceError(f"internal error ({type(unexpected).__name__}: {unexpected})")
        self._messages.put(WorkerFinished(error))

    def emit(self, event: Event) -> None:
        """Keep an event until the next poll."""
        self._messages.put(event)

    def is_stopping(self) -> bool:
        """Return whether the run has stopped this worker."""
        return self._stop.is_set()

    def publish(self, item: Item, entry: Callable[[], Entry], write: Callable[[], None]) -> None:
        """Publish a result once the run permits it."""
        self._messages.put(ResultReady(item.id, entry()))
        if not self._is_granted(item.id):
            raise Interrupted("the run has ended")
        try:
            write()
        except OutputError:
            self._inbox.put(None)  # no other result could be written either
            raise
        self._messages.put(ResultPublished(item.id))

    def _is_granted(self, number: int) -> bool:
        """Wait for the permission to publish; return whether it was given.

        Raises:
            DeviceError: The run is gone; a waiting thread would keep this process alive.
        """
        while True:
            try:
                return self._permissions[number].get(timeout=_TIMEOUT / _CHECKS)
            except Empty:
                if time.monotonic() - self._last_poll > _TIMEOUT:
                    self._inbox.put(None)  # the run collects no other result either
                    raise DeviceError("lost the connection to the run") from None


def check_worker(worker: WorkerInfo, first: WorkerInfo) -> ModelError | DeviceError | None:
    """Return why a worker cannot join the first one; None if it can."""
    mine = version("varfix")
    if worker.version != mine:
        return DeviceError(f"{worker.name} has varfix {worker.version}, this machine has {mine}")
    if (worker.sha256, worker.tile) != (first.sha256, first.tile):
        return ModelError(f"{worker.name} has another {worker.card.name} than {first.name}")
    return None
