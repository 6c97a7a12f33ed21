"""Queues between threads: read ahead of a consumer, and write behind a producer, in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

Value = TypeVar("Value")

_POLL = 0.2  # seconds between two checks whether the thread should end


class Prefetcher(Generic[Value]):
    """Iterates over a source on its own thread, a few values ahead of the consumer."""

    def __init__(self, source: Iterator[Value], depth: int) -> None:
        """Start reading.

        Args:
            source: Values to read; from now on, only the thread may use it.
            depth: Number of values that may wait.
        """
        self._source = source
        self._waiting: queue.Queue[tuple[Value] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="prefetcher", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Value]:
        """Yield the values; raise the error of the source after the last value."""
        while (boxed := self._waiting.get()) is not None:
            yield boxed[0]
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Stop reading, and wait until the source is no longer used."""
        self._closed.set()
        with suppress(queue.Empty):
            while True:
                self._waiting.get_nowait()
        self._thread.join()

    def _read(self) -> None:
        try:
            for value in self._source:
                if not self._put((value,)):
                    break
        except BaseException as error:
            self._error = error
        finally:
            close = getattr(self._source, "close", None)
            if close is not None:
                close()
        self._put(None)

    def _put(self, boxed: tuple[Value] | None) -> bool:
        while not self._closed.is_set():
            with suppress(queue.Full):
                self._waiting.put(boxed, timeout=_POLL)
                return True
        return False


class BackgroundWriter(Generic[Value]):
    """Calls a function with each value on its own thread, in order."""

    def __init__(self, work: Callable[[Value], None], depth: int) -> None:
        """Start waiting for values.

        Args:
            work: Called with each value; not called again after an error.
            depth: Number of values that may wait.
        """
        self._work = work
        self._waiting: queue.Queue[tuple[Value] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="background-writer", daemon=True)
        self._thread.start()

    def put(self, value: Value) -> None:
        """Queue a value; block while the queue is full.

        Raises:
            Exception: The error of the function for an earlier value.
        """
        if self._error is not None:
            raise self._error
        self._waiting.put((value,))

    def finish(self) -> None:
        """Wait until every value is processed.

        Raises:
            Exception: The error of the function for one of the values.
        """
        self._end()
        if self._error is not None:
            raise self._error

    def settle(self) -> None:
        """Wait until every value is processed; ignore errors."""
        self._end()

    def _end(self) -> None:
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (boxed := self._waiting.get()) is not None:
            if self._error is None:
                try:
                    self._work(boxed[0])
                except BaseException as error:
                    self._error = error
