"""Standard streams that somebody closed (`varfix … 2>&-`, some schedulers and desktops)."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO


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
