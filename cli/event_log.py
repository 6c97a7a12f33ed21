"""Events as JSON lines, for programs: on stdout with `--json`, in a file with `--log-file`."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from varfix.cli.stdio import write_all
from varfix.engine.errors import DiskFullError, OutputDeniedError, OutputError
from varfix.engine.events import Event, encode

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Sink:
    """Writes whole lines to a stream, until its reader closes it."""

    def __init__(self, name: str, stream: BinaryIO, on_closed: Callable[[], None]) -> None:
        """Write to `stream`, which messages call `name`.

        Args:
            name: Name of the file, or `stdout`.
            stream: Receives the lines.
            on_closed: Called once, when the reader has closed the stream.
        """
        self._name, self._stream = name, stream
        self._on_closed = on_closed
        self._closed = False

    def write(self, line: bytes) -> None:
        """Write `line`; do nothing after the reader has closed the stream.

        Raises:
            OutputError: The disk is full, or the file cannot be written. Raised once.
        """
        if self._closed:
            return
        try:
            write_all(self._stream, line)
        except OSError as error:
            self._closed = True
            if error.errno != errno.EPIPE:
                raise self._refused(error) from error
            self._on_closed()

    def _refused(self, error: OSError) -> OutputError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free space and run the same command again"
            return DiskFullError(f"{self._name}: no space left for events", hint=hint)
        return OutputError(f"{self._name}: {error.strerror or error}")


class EventLog:
    """Writes each event as one JSON line to every sink; thread-safe."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = sinks
        self._run_id = new_run_id()
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write `event` to every sink."""
        with self._lock:
            line = encode(event, self._run_id, datetime.now(UTC))
            for sink in self._sinks:
                sink.write(line)


@contextmanager
def log_file(path: Path) -> Iterator[Sink]:
    """Append lines to the file at `path` while the block runs.

    Raises:
        OutputDeniedError: The file cannot be written.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(path.open("ab", buffering=0))
        except OSError as error:
            raise OutputDeniedError(
                f"--log-file {path}: cannot be written ({error.strerror or error})"
            ) from error
        yield Sink(str(path), stream, on_closed=lambda: None)


def new_run_id() -> str:
    """Return a ULID: 26 characters, sortable by creation time."""
    value = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))
