"""Standard streams as they are found: closed (`varfix … 2>&-`), unbuffered, or never waiting."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
import warnings
from typing import BinaryIO, TextIO


def open_missing() -> None:
    """Give the process the standard streams that it was started without.

    Else the next file that is opened would take their numbers, and Python has None for them.
    Stdin is empty then, and stderr leads nowhere; but what is meant for stdout must not vanish
    without an error, so that it is a pipe whose reader has gone.
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

    Native code writes to descriptor 2, whoever owns it. What Python writes to stderr gets a
    descriptor of its own, and 2 leads nowhere. What matters of it has been found by varfix's own
    checks, which know the name of the file.
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
    vars(sys)["__stderr__"] = sys.stderr  # Rich asks it how wide the terminal is
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def write_all(stream: BinaryIO, data: bytes) -> None:
    """Write all of `data` to stdout, whatever it is, and flush.

    With PYTHONUNBUFFERED set a stream takes what fits, in silence; one that another program made
    non-blocking takes nothing while its reader is busy.
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
    """Let everything else that goes into a stream, the interpreter's last flush too, go nowhere."""
    # A stream that is no real file has nobody to complain.
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
