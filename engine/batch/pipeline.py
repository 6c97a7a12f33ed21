"""The pipeline: decode, restore and encode work on different items at the same time.

Decoding and encoding run on threads, restoring runs on the caller's thread. The bytes of the items
in flight limit the memory (engine/README.md, "Numbers"). The number of restored items that wait is
limited as well: thousands of small images would fit, and a slow disk would fill the memory.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final, Generic, TypeVar

ItemT = TypeVar("ItemT")
DecodedT = TypeVar("DecodedT")
RestoredT = TypeVar("RestoredT")

# Restored items that may wait per encoding thread, so that pauses of a disk do not stop the run.
_BACKLOG: Final = 8


@dataclass(frozen=True)
class Stages(Generic[ItemT, DecodedT, RestoredT]):
    """The functions of the stages.

    Attributes:
        cost: Returns the bytes that an item needs in memory, before it is read.
        decode: Reads an item; on a thread.
        restore: Restores it; on the caller's thread, in order.
        encode: Stores a result; on a thread.
        fail: Receives the exception of any stage; raises the errors that must end the run.
    """

    cost: Callable[[ItemT], int]
    decode: Callable[[ItemT], DecodedT]
    restore: Callable[[ItemT, DecodedT], RestoredT]
    encode: Callable[[ItemT, RestoredT], None]
    fail: Callable[[ItemT, Exception], None]


@dataclass(frozen=True)
class _Decoding(Generic[ItemT, DecodedT]):
    """An item that is being decoded, or is decoded."""

    item: ItemT
    cost: int
    future: Future[DecodedT]


class ByteBudget:
    """Bytes that may be in flight; a single item always fits, or it would wait forever."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @property
    def used(self) -> int:
        """Bytes in flight."""
        return self._used

    def reserve(self, amount: int) -> bool:
        """Reserve bytes if they fit or nothing else is in flight; return whether they were."""
        with self._changed:
            if not self._fits(amount):
                return False
            self._used += amount
            return True

    def release(self, amount: int) -> None:
        """Release reserved bytes."""
        with self._changed:
            self._used -= amount
            self._changed.notify_all()

    def wait(self, amount: int) -> None:
        """Wait until the bytes can be reserved."""
        with self._changed:
            self._changed.wait_for(lambda: self._fits(amount))

    def _fits(self, amount: int) -> bool:
        return not self._used or self._used + amount <= self._limit


class Pipeline(Generic[ItemT, DecodedT, RestoredT]):
    """Runs items through the stages."""

    def __init__(
        self,
        stages: Stages[ItemT, DecodedT, RestoredT],
        jobs: int,
        limit: int,
        is_stopping: Callable[[], bool],
    ) -> None:
        """Create a pipeline.

        Args:
            stages: The functions of the stages.
            jobs: Threads for decoding, and as many for encoding.
            limit: Bytes in flight.
            is_stopping: Once true, no item is started; results that are being written are finished.
        """
        self._stages, self._jobs, self._is_stopping = stages, jobs, is_stopping
        self._budget = ByteBudget(limit)
        self._backlog = threading.Semaphore(_BACKLOG * jobs)
        self._fatal: list[BaseException] = []

    def run(self, items: Iterable[ItemT], ready: Callable[[], bool] = lambda: True) -> None:
        """Process the items.

        Args:
            items: May yield items later, while others are processed.
            ready: Returns whether `items` can yield, or end, without waiting; while there is other
                work, `items` is only advanced then.

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
        self, source: _Peekable[ItemT], decoders: ThreadPoolExecutor, encoders: ThreadPoolExecutor
    ) -> None:
        ahead: deque[_Decoding[ItemT, DecodedT]] = deque()
        while not self._is_stopping() and not self._fatal:
            self._read_ahead(source, ahead, decoders)
            if ahead:
                self._advance(ahead.popleft(), encoders)
            elif source.empty:
                break
            else:  # everything in flight is being written
                self._budget.wait(self._stages.cost(source.peek()))

    def _read_ahead(
        self,
        source: _Peekable[ItemT],
        ahead: deque[_Decoding[ItemT, DecodedT]],
        decoders: ThreadPoolExecutor,
    ) -> None:
        while len(ahead) <= 2 * self._jobs and (source.ready or not ahead) and not source.empty:
            item = source.peek()
            cost = self._stages.cost(item)
            if not self._budget.reserve(cost):
                return
            source.next()
            ahead.append(_Decoding(item, cost, decoders.submit(self._stages.decode, item)))

    def _advance(self, decoding: _Decoding[ItemT, DecodedT], encoders: ThreadPoolExecutor) -> None:
        item, cost = decoding.item, decoding.cost
        try:
            restored = self._stages.restore(item, decoding.future.result())
        except Exception as error:
            self._failed(item, error)
            self._budget.release(cost)
            return
        self._backlog.acquire()
        encoders.submit(self._finish, item, cost, restored)

    def _finish(self, item: ItemT, cost: int, restored: RestoredT) -> None:
        try:
            self._stages.encode(item, restored)
        except Exception as error:
            self._failed(item, error)
        finally:
            self._backlog.release()
            self._budget.release(cost)

    def _failed(self, item: ItemT, error: Exception) -> None:
        try:
            self._stages.fail(item, error)
        except Exception as fatal:
            self._fatal.append(fatal)


class _Peekable(Generic[ItemT]):
    """An iterator whose next item can be read without taking it."""

    def __init__(self, items: Iterator[ItemT], ready: Callable[[], bool]) -> None:
        self._items, self._ready = items, ready
        self._head: list[ItemT] = []

    @property
    def ready(self) -> bool:
        """Whether `empty` is known without waiting."""
        return bool(self._head) or self._ready()

    @property
    def empty(self) -> bool:
        """Whether no item is left."""
        if not self._head:
            self._head.extend(islice(self._items, 1))
        return not self._head

    def peek(self) -> ItemT:
        """Return the next item; only if not empty."""
        return self._head[0]

    def next(self) -> ItemT:
        """Remove and return the next item; only if not empty."""
        return self._head.pop()
