"""Commits of results: a worker publishes a result when the manifest contains it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Final

from varfix.engine.batch.context import RunPort
from varfix.engine.batch.item import Item
from varfix.engine.errors import Interrupted
from varfix.engine.storage.manifest import Entry

# Results that all workers together may record and publish at the same time.
_PARALLEL: Final = 64

# Arguments: number of the worker, id of the item, whether the worker may publish its result.
PermissionSender = Callable[[int, int, bool], None]


@dataclass(frozen=True)
class _OpenCommit:
    """A commit that waits for its worker.

    Attributes:
        outcome: Receives whether the worker has published the result.
        future: Done when the commit has ended.
    """

    outcome: SimpleQueue[bool]
    future: Future[None]


class CommitCoordinator:
    """Publishes the results of workers through the run's port, as local results are published.

    Attributes:
        error: The first error that ends the run; None while there is none.
    """

    def __init__(self, port: RunPort, send: PermissionSender) -> None:
        self.error: Exception | None = None
        self._port, self._send = port, send
        self._pool = ThreadPoolExecutor(_PARALLEL, "publish")
        self._open: dict[tuple[int, int], _OpenCommit] = {}  # by worker and item

    def commit(self, worker: int, item: Item, entry: Entry) -> None:
        """Record a result in the manifest, and let its worker publish it."""
        outcome: SimpleQueue[bool] = SimpleQueue()
        future = self._pool.submit(self._publish, worker, item, entry, outcome)
        self._open[worker, item.id] = _OpenCommit(outcome, future)

    def finish(self, worker: int, number: int, published: bool) -> None:
        """End the commit of a result, if one is open."""
        if (worker, number) in self._open:
            self._open.pop((worker, number)).outcome.put(published)

    def abandon(self, worker: int) -> None:
        """End all commits of a worker, and wait until nothing more happens for them."""
        commits = [self._open.pop(key) for key in list(self._open) if key[0] == worker]
        for commit in commits:
            commit.outcome.put(False)
        for commit in commits:
            commit.future.result()

    def close(self) -> None:
        """End all open commits, and wait for the others."""
        for worker in {worker for worker, _ in self._open}:
            self.abandon(worker)
        self._pool.shutdown()

    def _publish(self, worker: int, item: Item, entry: Entry, outcome: SimpleQueue[bool]) -> None:
        def write() -> None:
            self._send(worker, item.id, True)
            if not outcome.get():
                raise Interrupted("not written")

        try:
            self._port.publish(item, lambda: entry, write)
        except Interrupted:
            pass  # the worker has reported the reason, or is gone
        except Exception as error:
            self.error = self.error or error
            self._send(worker, item.id, False)
