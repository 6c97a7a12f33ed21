"""Opens the store at a path or an address; fsspec is only imported for an address."""

from __future__ import annotations

from pathlib import Path

from varfix.engine.errors import ConfigError
from varfix.engine.storage.addresses import display_address
from varfix.engine.storage.store import Place, Store


def open_store(address: str) -> Store:
    """Open an address; no request is sent yet.

    Raises:
        ConfigError: The kind of address is unknown, or its package is not installed.
    """
    scheme = address.partition("://")[0].lower()
    if scheme in ("file", "local"):
        path = address[len(scheme) + 3 :]
        raise ConfigError(f"{display_address(address)} is a path", hint=f"write {path}")
    from varfix.engine.storage.object_store import ObjectStore

    return ObjectStore(address)


def store_of(place: Place) -> Store:
    """Return the store at a place; a path is a folder's."""
    if not isinstance(place, Path):
        return place
    from varfix.engine.storage.local import LocalStore

    return LocalStore(place)
