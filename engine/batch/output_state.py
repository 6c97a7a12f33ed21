"""The state of an output: what the manifest and the file itself say about it."""

from __future__ import annotations

from contextlib import suppress
from typing import Literal

from varfix.engine.batch.completeness import is_complete
from varfix.engine.batch.fingerprint import item_fingerprint
from varfix.engine.batch.item import Item, ItemSource
from varfix.engine.settings.types import Settings
from varfix.engine.storage.identity import Identity
from varfix.engine.storage.manifest import Manifest

OutputState = Literal["missing", "done", "stale", "foreign"]
"""An output is absent or incomplete; current; made from another source or with other settings; or
not a result of varfix."""


def output_state(
    item: Item, manifest: Manifest, fingerprint: str, settings: Settings
) -> OutputState:
    """Return the state of the output of an item.

    Args:
        item: The item.
        manifest: Record of the results in the destination.
        fingerprint: Fingerprint of model and settings.
        settings: The settings.
    """
    identity = _identity_now(item.source)
    expected = item_fingerprint(item, fingerprint, settings)
    status = manifest.status(item.target.name, identity, expected)
    if status != "smaller":
        return status
    # Another program made it smaller, or the run that wrote it was interrupted.
    path = item.target.path
    return "foreign" if path is not None and is_complete(path) else "missing"


def _identity_now(source: ItemSource) -> Identity | None:
    """Return the identity of a source: as listed for an object, as it is now for a file."""
    if source.path is None:
        return source.version
    with suppress(OSError):
        return source.path.stat()
    return None
