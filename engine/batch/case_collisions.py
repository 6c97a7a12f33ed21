"""Names that are two here and one there.

Most file systems of Windows and macOS take `a.jpg` and `A.JPG` for one file, and those of Apple
also the two ways in which Unicode writes `é`; those of Linux usually do neither. Sources that come
from one kind of disk and results that go to the other would replace each other unnoticed.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

Spelling = Callable[[str], str]
"""Gives a name as it is compared: two names of one spelling are one file."""

# Has both cases, and a letter that Unicode writes in two ways: some file systems know A to Z alone.
_PROBE: Final = ".varfix-{pid}-Aa\u00e9"
_COMPOSED: Final = "NFC"
_APART: Final = "NFD"


def exact(name: str) -> str:
    """Compare names byte by byte."""
    return name


def casefolded(name: str) -> str:
    """Compare names as the file systems do that tell the fewest apart."""
    return _composed(name).casefold()


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize(_COMPOSED, name)


def may_collide(names: Iterable[str]) -> bool:
    """Whether some of these different names are one on some file systems."""
    seen: set[str] = set()
    count = 0
    for count, name in enumerate(names, 1):  # noqa: B007 (the last one is their number)
        seen.add(casefolded(name))
    return len(seen) < count


def detect_comparison(folder: Path) -> Spelling:
    """How names are compared in a folder, or in the nearest one above it that exists.

    A file is made there for a moment: nothing else tells. Where none can be made, the system's
    habits count.
    """
    place = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path())
    probe = place / _PROBE.format(pid=os.getpid())
    cased = composed = sys.platform in ("darwin", "win32")
    try:
        probe.open("xb").close()
    except OSError:
        return _spelling(cased, composed)
    try:
        cased = probe.with_name(probe.name.replace("Aa", "aA")).exists()
        composed = probe.with_name(unicodedata.normalize(_APART, probe.name)).exists()
    finally:
        with suppress(OSError):
            probe.unlink()
    return _spelling(cased, composed)


def _spelling(cased: bool, composed: bool) -> Spelling:
    if cased:
        return casefolded if composed else str.casefold
    return _composed if composed else exact
