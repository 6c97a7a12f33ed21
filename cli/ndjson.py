"""Events as JSON lines, for programs: on stdout with `--json`, in a file with `--log-file`."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final

from varfix.engine.errors import OutputDeniedError
from varfix.engine.events import Event, encode

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class EventLog:
    """An observer that writes one JSON line per event, at once, from whatever thread it comes.

    Attributes:
        closed: The reader went away; nothing more is written.
    """

    def __init__(self, stream: BinaryIO, run_id: str, on_closed: Callable[[], None]) -> None:
        self.closed = False
        self._stream = stream
        self._run_id = run_id
        self._on_closed = on_closed
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write `event`; a reader that went away is noted, once, instead of failing a worker."""
        with self._lock:
            if self.closed:
                return
            try:
                self._stream.write(encode(event, self._run_id, datetime.now(UTC)))
                self._stream.flush()
            except OSError as error:
                if error.errno != errno.EPIPE:
                    raise
                self.closed = True
        if self.closed:
            self._on_closed()


@contextmanager
def log_file(path: Path, run_id: str) -> Iterator[EventLog]:
    """Append events to the file at `path` while the block runs.

    Raises:
        OutputDeniedError: The file cannot be written.
    """
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(path.open("ab"))
        except OSError as error:
            raise OutputDeniedError(
                f"--log-file {path}: {error.strerror or error}. Nothing was restored."
            ) from error
        yield EventLog(stream, run_id, on_closed=lambda: None)


def new_run_id() -> str:
    """Return a ULID: 26 characters that sort by the time they were made."""
    value = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    return "".join(_CROCKFORD[value >> shift & 31] for shift in range(125, -1, -5))
