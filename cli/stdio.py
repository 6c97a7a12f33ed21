"""Standard streams that are closed (`varfix … 2>&-`), unbuffered or non-blocking."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import warnings
from typing import BinaryIO, TextIO


def open_missing() -> None:
    """Open the standard streams that the process was started without.

    Otherwise the next opened file would take their numbers, and Python has None for them. Stdin
    becomes empty and stderr is discarded. Data for stdout must not be lost without an error, so
    stdout becomes a pipe without a reader.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            _fill(number)
    sys.stdin = sys.stdin or _stream(0, "r")
    sys.stdout = sys.stdout or _stream(1, "w")
    sys.stderr = sys.stderr or _stream(2, "w")


def silence_libraries() -> None:
    """Keep what libraries print off stderr: people read messages there, and programs parse them.

    Native code writes to descriptor 2. Python's stderr gets a new descriptor, and descriptor 2
    leads to the null device. The checks of varfix find the same problems and name the file.
    """
    import logging

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.getLogger().addHandler(logging.NullHandler())
    if _descriptor(sys.stderr) != 2:
        return
    sys.stderr.flush()
    own = os.fdopen(os.dup(2), "wb", buffering=0)
    sys.stderr = io.TextIOWrapper(own, sys.stderr.encoding, "backslashreplace", write_through=True)
    vars(sys)["__stderr__"] = sys.stderr  # Rich reads the width of the terminal from it
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Write all of `data` to any kind of stdout, and flush.

    With PYTHONUNBUFFERED, a stream may write a part only; a non-blocking stream writes nothing
    while its reader is busy.
    """
    left = memoryview(data)
    while left:
        try:
            taken = stream.write(left)
        except BlockingIOError as full:
            taken = full.characters_written
        if not taken:
            _wait(stream)
        left = left[taken or 0 :]
    while True:
        try:
            return stream.flush()
        except BlockingIOError:
            _wait(stream)


def discard(stream: TextIO) -> None:
    """Discard everything that is written from now on, also the interpreter's last flush."""
    # A stream without a file number cannot fail later.
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _wait(stream: BinaryIO) -> None:
    select.select([], [stream], [])


def _fill(number: int) -> None:
    if number == 1:
        reader, opened = os.pipe()
        os.close(reader)
    else:
        opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)


def _stream(number: int, mode: str) -> TextIO:
    return io.TextIOWrapper(os.fdopen(number, f"{mode}b", closefd=False), "utf-8")
