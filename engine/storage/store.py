"""The port through which a run reads its sources and publishes its results.

It has two adapters: `local.LocalStore` for a folder, and `object_store.ObjectStore` for S3 and
everything else that fsspec opens. Files go by their names below the store, with `/`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from varfix.engine.formats import Header
from varfix.engine.storage.identity import FetchedFile, KnownFile, ObjectVersion
from varfix.engine.storage.manifest import Manifest
from varfix.engine.storage.scan import Filters, ScanResult
from varfix.engine.system.file_times import FileTimes


class Store(Protocol):
    """Source or destination of a run.

    It is pickled as its address: each worker opens its own connection.
    """

    @property
    def address(self) -> str:
        """The text that opens it again; it may contain a password, so messages never show it."""
        ...

    @property
    def folder(self) -> Path | None:
        """The folder on this machine's disk; None for an object store."""
        ...

    def label(self, name: str) -> str:
        """Return the name of a file for messages, without secrets."""
        ...

    def find(self, filters: Filters, files: tuple[str, ...] | None, target: Store) -> ScanResult:
        """Find the images and videos.

        Args:
            filters: Which files count.
            files: Names given by the user instead of a search.
            target: Left out when it is inside this store.

        Raises:
            PlanError: A name in `files` is outside the store.
            StoreError: The store does not answer or denies access.
        """
        ...

    def versions(self, names: list[str]) -> dict[str, ObjectVersion]:
        """Return the versions of objects that no search has listed; missing objects are left out.

        A folder returns none: the identity of a file is read with the file.
        """
        ...

    def fetch(self, name: str, known: KnownFile, admit: Callable[[Header], None]) -> FetchedFile:
        """Read an image's file whole; safe from any thread.

        Args:
            name: Name of the file.
            known: Properties that the plan has read.
            admit: Called with the header; raises an error to reject the image.

        Raises:
            SourceReadError: The file is missing, access is denied, or it changed while being read.
            DecodeError: It is not an image, or far larger than its image.
            StoreError: The store does not answer or denies access.
        """
        ...

    def relative_path_of(self, other: Store) -> str | None:
        """Return the name of another store in this one: empty for itself, None when outside."""
        ...

    def manifest(self) -> Manifest:
        """Read the manifest of the results in this store.

        Raises:
            OutputError: It cannot be read.
        """
        ...

    def replaces(self, name: str, source: Path | None) -> bool:
        """Return whether publishing a result replaces a file other than its own source.

        An object store returns False: its journal needs no such distinction.

        Args:
            name: Name of the result.
            source: File of its source; None for an object.
        """
        ...

    def publish(
        self, name: str, data: bytes, *, overwrite: bool, times: FileTimes | None = None
    ) -> None:
        """Write a result, complete or not at all; safe from any thread.

        Args:
            name: Name of the result.
            data: Its whole file.
            overwrite: Replace an object of this name; a folder always replaces.
            times: Times of a file in a folder, None = now; objects have the time of writing.

        Raises:
            EncodeError: The store cannot hold a file of this name.
            TakenError: An object that this run did not write has this name.
            OutputError: The store is full or denies access.
        """
        ...

    def discard_unfinished(self) -> None:
        """Remove what unfinished writes of this process have left, before it exits at once."""
        ...

    def lock(self) -> AbstractContextManager[None]:
        """Hold the store for this run alone.

        Raises:
            OutputLockedError: Another run holds it.
        """
        ...


Place = Path | Store
