"""Addresses such as `s3://bucket/folder`: distinguished from paths, shown without secrets."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from varfix.engine.storage.store import Place

# Two letters at least: `C://x` is a path of Windows.
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# A password may contain slashes, so anything with a colon up to an at sign counts as a password.
_SECRET: Final = re.compile(r"(?<=://)(?:[^/@\s]*|[^@\s]*:[^@\s]*)@")
_QUERY: Final = re.compile(r"(?<=://)([^\s?]*)\?[^\s'\")>]*")


def is_address(text: str) -> bool:
    """Return whether a text is an address and not a path."""
    return _ADDRESS.match(text) is not None


def display_address(place: Place | str) -> str:
    """Return a path or an address for messages: without user, password and query."""
    if isinstance(place, Path):
        return os.fspath(place)
    text = place if isinstance(place, str) else place.address
    return redact(text) if is_address(text) else text


def redact(text: str) -> str:
    """Return a text without the passwords and queries of its addresses: both may give access."""
    return _QUERY.sub(r"\1", _SECRET.sub("", text))
