"""A source file: its bytes, its identity, its name for people."""

from __future__ import annotations

import os
from pathlib import Path

from varfix.engine.errors import SourceReadError


def readable(name: str) -> str:
    """A name that can be printed and put into JSON, whatever bytes it is made of."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def read_source(path: Path) -> tuple[os.stat_result, bytes]:
    """Read a file whole, with its identity as of the reading.

    Raises:
        SourceReadError: It is gone or may not be read.
    """
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()), file.read()
    except OSError as error:
        raise SourceReadError(
            f"cannot be read ({(error.strerror or str(error)).lower()})"
        ) from error
