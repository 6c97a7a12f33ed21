"""Converts file names for messages, events and tables."""

from __future__ import annotations

import re
from typing import Final

# Characters that end a line, move a cursor, or turn the direction of writing.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def printable(name: str) -> str:
    """Return a name that can be printed and stored in JSON, even if its bytes are not valid text.

    A valid name stays as it is, also where the system's own encoding is not UTF-8.
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def single_line(name: str) -> str:
    """Return a name for the middle of a sentence: printable, without control characters."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], printable(name))
