"""Where images come from and where results go: a folder on a disk, or an address.

The port `Store` has two adapters: `store_local` for folders, `store_fsspec` for object stores and
whatever else fsspec opens. Nothing of fsspec is imported before an address is opened.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from varfix.engine.errors import ConfigError

if TYPE_CHECKING:
    from varfix.engine.batch.plan import Item
    from varfix.engine.formats import Header
    from varfix.engine.storage.manifest import Memory
    from varfix.engine.storage.scan import Filters, Found
    from varfix.engine.system.atomic import Publisher

# Two letters at least: `C://x` is a disk of Windows.
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# A password may hold slashes, so anything with a colon up to an at sign counts as one.
_SECRET: Final = re.compile(r"(?<=://)(?:[^/@\s]*|[^@\s]*:[^@\s]*)@")
_QUERY: Final = re.compile(r"(?<=://)([^\s?]*)\?[^\s'\")>]*")


class Identity(Protocol):
    """What tells one state of a file from another; `os.stat_result` is one."""

    @property
    def st_size(self) -> int:
        """Bytes."""
        ...

    @property
    def st_mtime_ns(self) -> int:
        """Time of the last change."""
        ...


@dataclass(frozen=True, slots=True)
class Stamp:
    """The identity of an object, as its store lists it.

    Attributes:
        st_size: bytes.
        st_mtime_ns: time of the last change.
        tag: the store's own mark of the content (ETag), where it has one.
    """

    st_size: int
    st_mtime_ns: int
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Fetched:
    """An image's file, read.

    Attributes:
        stat: its identity as of the reading.
        header: what its first bytes say.
        data: the whole file.
    """

    stat: Identity
    header: Header
    data: bytes


class Store(Protocol):
    """One end of a run. Pickled as its address: a worker opens a connection of its own."""

    @property
    def address(self) -> str:
        """What opens it again; may hold a password, so it is not for people."""
        ...

    @property
    def folder(self) -> Path | None:
        """The folder that it is, None when it is none on a disk of this machine."""
        ...

    def label(self, name: str) -> str:
        """How messages call a file, from here, without secrets."""
        ...

    def find(self, filters: Filters, files: tuple[str, ...] | None, target: Store) -> Found:
        """Find the images.

        Args:
            filters: which files count.
            files: names given by the user instead of a search.
            target: left out when it lies inside.

        Raises:
            PlanError: A name in `files` leads elsewhere.
            StoreError: The store does not answer or lets nobody in.
        """
        ...

    def item(self, item: Item, found: Found) -> Item:
        """The item with what is known of its source without opening it."""
        ...

    def identities(self, names: list[str]) -> dict[str, Stamp]:
        """Ask for the identities of files that no search has seen; those that are gone are not in.

        A folder's are read where they are needed, and need no asking.
        """
        ...

    def fetch(self, item: Item, admit: Callable[[Header], None]) -> Fetched:
        """Read an image's file whole, from any thread.

        Args:
            item: the image.
            admit: told the header; raises to refuse the image.

        Raises:
            SourceReadError: It is gone, may not be read, or changed meanwhile.
            DecodeError: It is no image, or far larger than its image.
            StoreError: The store does not answer or lets nobody in.
        """
        ...

    def place_of(self, other: Store) -> str | None:
        """The name that another store has in this one; empty for itself, None for elsewhere."""
        ...

    def memory(self) -> Memory:
        """What is known of the results that are here.

        Raises:
            OutputError: It cannot be read.
        """
        ...

    def replaces(self, item: Item) -> bool:
        """Whether an older result will be replaced; what is replaced in place does not count."""
        ...

    def publish(self, item: Item, data: bytes, publisher: Publisher) -> None:
        """Put a result in its place, complete or not at all, from any thread.

        Args:
            item: the image.
            data: the result's file.
            publisher: knows the unfinished files of this process, where there are such.

        Raises:
            EncodeError: There can be no file of this name.
            TakenError: Somebody else's file has appeared under the name.
            OutputError: The store refuses, or is full.
        """
        ...

    def held(self) -> AbstractContextManager[None]:
        """Hold it for this run alone.

        Raises:
            OutputLockedError: Another run writes here.
        """
        ...


Place = Path | Store


def is_address(text: str) -> bool:
    """Whether a text is an address, such as `s3://bucket/folder`, and no path."""
    return _ADDRESS.match(text) is not None


def shown(place: Place | str) -> str:
    """A place as people may read it: without name and password, and without a query."""
    if isinstance(place, Path):
        return os.fspath(place)
    text = place if isinstance(place, str) else place.address
    return scrubbed(text) if is_address(text) else text


def scrubbed(text: str) -> str:
    """A text in which no address shows a password or a query: both may open a store."""
    return _QUERY.sub(r"\1", _SECRET.sub("", text))


def open_store(address: str) -> Store:
    """Open an address; nothing is asked of the store yet.

    Raises:
        ConfigError: No such kind of address, or its package is not installed.
    """
    scheme = address.partition("://")[0].lower()
    if scheme in ("file", "local"):
        raise ConfigError(f"{shown(address)} is a path", hint=f"write {address[len(scheme) + 3 :]}")
    from varfix.engine.storage.object_store import FsspecStore

    return FsspecStore(address)


def store_of(place: Place) -> Store:
    """The store at a place: a folder's for a path."""
    if not isinstance(place, Path):
        return place
    from varfix.engine.storage.local import LocalStore

    return LocalStore(place)
