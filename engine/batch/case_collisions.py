"""Names that differ on some file systems and are equal on others.

Most file systems of Windows and macOS treat `a.jpg` and `A.JPG` as one file; Apple's also treat the
two ways in which Unicode writes `é` as equal. Those of Linux usually do neither. If the sources are
on one kind of disk and the results on another, results could silently replace each other.
"""

from __future__ import annotations

import os
import sys
import unicodedata
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

NameKey = Callable[[str], str]
"""Returns the key by which a file system compares a name: equal keys are the same file."""

# Has both cases, and a letter that Unicode writes in two ways: some file systems ignore only the
# case of A to Z.
_PROBE: Final = ".varfix-{pid}-Aa\u00e9"
_COMPOSED: Final = "NFC"
_APART: Final = "NFD"


def exact(name: str) -> str:
    """Compare names byte by byte."""
    return name


def casefolded(name: str) -> str:
    """Compare names as the file systems that ignore the most differences."""
    return _composed(name).casefold()


def _composed(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize(_COMPOSED, name)


def may_collide(names: Iterable[str]) -> bool:
    """Return whether some of these different names are equal on some file systems."""
    seen: set[str] = set()
    count = 0
    for count, name in enumerate(names, 1):  # noqa: B007 (the last count is their number)
        seen.add(casefolded(name))
    return len(seen) < count


def detect_comparison(folder: Path) -> NameKey:
    """Return how names are compared in a folder, or in its nearest parent that exists.

    A temporary file is created there, because no interface reports this. If none can be created,
    the usual behavior of the operating system is assumed.
    """
    place = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path())
    probe = place / _PROBE.format(pid=os.getpid())
    cased = composed = sys.platform in ("darwin", "win32")
    try:
        probe.open("xb").close()
    except OSError:
        return _name_key(cased, composed)
    try:
        cased = probe.with_name(probe.name.replace("Aa", "aA")).exists()
        composed = probe.with_name(unicodedata.normalize(_APART, probe.name)).exists()
    finally:
        with suppress(OSError):
            probe.unlink()
    return _name_key(cased, composed)


def _name_key(cased: bool, composed: bool) -> NameKey:
    if cased:
        return casefolded if composed else str.casefold
    return _composed if composed else exact
