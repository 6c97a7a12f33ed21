"""Hands values from thread to thread in order, with only so many waiting."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Generic, TypeVar

Value = TypeVar("Value")

_POLL = 0.2  # seconds after which a thread looks whether it is still wanted


class Prefetcher(Generic[Value]):
    """Iterates over a source on a thread of its own, a few values ahead of its reader."""

    def __init__(self, source: Iterator[Value], depth: int) -> None:
        """Begin to read.

        Args:
            source: only touched by the thread from now on.
            depth: values that may wait.
        """
        self._source = source
        self._waiting: queue.Queue[tuple[Value] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Value]:
        """Yield the values; what the source raised is raised after the last of them."""
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
    """Takes values to a function that runs on a thread of its own, in order."""

    def __init__(self, work: Callable[[Value], None], depth: int) -> None:
        """Begin to wait for values.

        Args:
            work: called with each value; after it has failed, never again.
            depth: values that may wait.
        """
        self._work = work
        self._waiting: queue.Queue[tuple[Value] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="behind", daemon=True)
        self._thread.start()

    def put(self, value: Value) -> None:
        """Hand over a value, waiting while too many wait.

        Raises:
            Exception: What the function raised for an earlier value.
        """
        if self._error is not None:
            raise self._error
        self._waiting.put((value,))

    def finish(self) -> None:
        """Wait until every value is worked off.

        Raises:
            Exception: What the function raised for one of them.
        """
        self._end()
        if self._error is not None:
            raise self._error

    def settle(self) -> None:
        """Wait until every value is worked off, whatever became of them."""
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
