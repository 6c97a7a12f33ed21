"""Decode, restore, encode: three stages that work on different images at the same time.

Decoding and encoding run on threads, restoring on the caller's thread. Memory is bounded by the
bytes of the images in flight, whatever their number (engine/README.md, "Numbers"); and of
small ones, thousands of which would fit, only some wait: a slow disk is not to fill the memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")
Decoded = TypeVar("Decoded")
Restored = TypeVar("Restored")

# Restored items per encoding thread that may wait for it: a disk's pauses are bridged.
_BACKLOG: Final = 8


@dataclass(frozen=True)
class Stages(Generic[Item, Decoded, Restored]):
    """The work itself.

    Attributes:
        cost: bytes that an item needs in memory, before it is read.
        decode: reads an item; on a thread.
        restore: on the caller's thread, in order.
        encode: stores a result; on a thread.
        fail: told of an exception of any stage; re-raises what must end the run.
    """

    cost: Callable[[Item], int]
    decode: Callable[[Item], Decoded]
    restore: Callable[[Item, Decoded], Restored]
    encode: Callable[[Item, Restored], None]
    fail: Callable[[Item, Exception], None]


class ByteBudget:
    """Bytes that may be in flight. One item always fits, or a large image would wait forever."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @property
    def used(self) -> int:
        """Bytes taken now."""
        return self._used

    def take(self, amount: int) -> bool:
        """Take bytes if they fit or nothing else is in flight."""
        with self._changed:
            if not self._fits(amount):
                return False
            self._used += amount
            return True

    def give(self, amount: int) -> None:
        """Give bytes back."""
        with self._changed:
            self._used -= amount
            self._changed.notify_all()

    def wait(self, amount: int) -> None:
        """Wait until so many bytes can be taken."""
        with self._changed:
            self._changed.wait_for(lambda: self._fits(amount))

    def _fits(self, amount: int) -> bool:
        return not self._used or self._used + amount <= self._limit


class Pipeline(Generic[Item, Decoded, Restored]):
    """Runs items through the stages."""

    def __init__(
        self,
        stages: Stages[Item, Decoded, Restored],
        jobs: int,
        limit: int,
        stopped: Callable[[], bool],
    ) -> None:
        """Prepare a run.

        Args:
            stages: the work.
            jobs: threads for decoding, and as many for encoding.
            limit: bytes in flight.
            stopped: once true, nothing new is started; what is being written is finished.
        """
        self._stages, self._jobs, self._stopped = stages, jobs, stopped
        self._budget = ByteBudget(limit)
        self._backlog = threading.Semaphore(_BACKLOG * jobs)
        self._fatal: list[BaseException] = []

    def run(self, items: Iterable[Item], ready: Callable[[], bool] = lambda: True) -> None:
        """Work through the items.

        Args:
            items: may come one by one, while others are worked on.
            ready: whether the next one, or the end, can be had without waiting; only then is it
                asked for while there is other work.

        Raises:
            Exception: What `fail` re-raised, after writes in flight are finished.
        """
        with (
            ThreadPoolExecutor(self._jobs, "decode") as decoders,
            ThreadPoolExecutor(self._jobs, "encode") as encoders,
        ):
            try:
                self._work(_Peekable(iter(items), ready), decoders, encoders)
            finally:
                decoders.shutdown(wait=False, cancel_futures=True)
        if self._fatal:
            raise self._fatal[0]

    def _work(
        self, source: _Peekable[Item], decoders: ThreadPoolExecutor, encoders: ThreadPoolExecutor
    ) -> None:
        ahead: deque[tuple[Item, int, Future[Decoded]]] = deque()
        while not self._stopped() and not self._fatal:
            self._read_ahead(source, ahead, decoders)
            if ahead:
                self._advance(*ahead.popleft(), encoders)
            elif source.empty:
                break
            else:  # all that is in flight is being written
                self._budget.wait(self._stages.cost(source.peek()))

    def _read_ahead(
        self,
        source: _Peekable[Item],
        ahead: deque[tuple[Item, int, Future[Decoded]]],
        decoders: ThreadPoolExecutor,
    ) -> None:
        while len(ahead) <= 2 * self._jobs and (source.ready or not ahead) and not source.empty:
            item = source.peek()
            cost = self._stages.cost(item)
            if not self._budget.take(cost):
                return
            source.next()
            ahead.append((item, cost, decoders.submit(self._stages.decode, item)))

    def _advance(
        self, item: Item, cost: int, future: Future[Decoded], encoders: ThreadPoolExecutor
    ) -> None:
        try:
            restored = self._stages.restore(item, future.result())
        except Exception as error:
            self._failed(item, error)
            self._budget.give(cost)
            return
        self._backlog.acquire()
        encoders.submit(self._finish, item, cost, restored)

    def _finish(self, item: Item, cost: int, restored: Restored) -> None:
        try:
            self._stages.encode(item, restored)
        except Exception as error:
            self._failed(item, error)
        finally:
            self._backlog.release()
            self._budget.give(cost)

    def _failed(self, item: Item, error: Exception) -> None:
        try:
            self._stages.fail(item, error)
        except Exception as fatal:
            self._fatal.append(fatal)


class _Peekable(Generic[Item]):
    """An iterator that can be looked into."""

    def __init__(self, items: Iterator[Item], ready: Callable[[], bool]) -> None:
        self._items, self._ready = items, ready
        self._head: list[Item] = []

    @property
    def ready(self) -> bool:
        """Whether `empty` can answer without waiting."""
        return bool(self._head) or self._ready()

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        if not self._head:
            self._head.extend(islice(self._items, 1))
        return not self._head

    def peek(self) -> Item:
        """The next item; only if not empty."""
        return self._head[0]

    def next(self) -> Item:
        """Take the next item; only if not empty."""
        return self._head.pop()
