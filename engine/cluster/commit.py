"""Leave to publish: workers ask for it, result by result, and get it once the manifest knows."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final

from varfix.engine.batch.plan import Item
from varfix.engine.batch.processor import Desk
from varfix.engine.errors import Interrupted
from varfix.engine.storage.manifest import Entry

# Results that may be entered and published at the same time, by all workers together.
_AT_ONCE: Final = 64

# Tells a worker whether to publish a result: its number, the result's, and leave or not.
Sender = Callable[[int, int, bool], None]


class Handover:
    """Publishes what workers have ready, through the desk that local results go through, too.

    Attributes:
        error: the first that a run does not survive; None while there is none.
    """

    def __init__(self, desk: Desk, send: Sender) -> None:
        self.error: Exception | None = None
        self._desk, self._send = desk, send
        self._pool = ThreadPoolExecutor(_AT_ONCE, "publish")
        self._open: dict[tuple[int, int], tuple[SimpleQueue[bool], Future[None]]] = {}

    def ready(self, worker: int, item: Item, entry: Entry) -> None:
        """Enter a result, and have its worker publish it."""
        outcome: SimpleQueue[bool] = SimpleQueue()
        future = self._pool.submit(self._publish, worker, item, entry, outcome)
        self._open[worker, item.id] = outcome, future

    def settle(self, worker: int, number: int, written: bool) -> None:
        """Take note of what became of a result; also of one that was never ready."""
        if (worker, number) in self._open:
            outcome, _ = self._open.pop((worker, number))
            outcome.put(written)

    def lost(self, worker: int) -> None:
        """Give up what a worker had ready; afterwards nothing more is done about it."""
        futures = []
        for key in [key for key in self._open if key[0] == worker]:
            outcome, future = self._open.pop(key)
            outcome.put(False)
            futures.append(future)
        for future in futures:
            future.result()

    def close(self) -> None:
        """Give up what is open, and wait for the rest."""
        for worker in {worker for worker, _ in self._open}:
            self.lost(worker)
        self._pool.shutdown()

    def _publish(self, worker: int, item: Item, entry: Entry, outcome: SimpleQueue[bool]) -> None:
        def write() -> None:
            self._send(worker, item.id, True)
            if not outcome.get():
                raise Interrupted("not written")

        try:
            self._desk.put(item, lambda: entry, write)
        except Interrupted:
            pass  # the worker has told why, or is gone
        except Exception as error:
            self.error = self.error or error
            self._send(worker, item.id, False)
