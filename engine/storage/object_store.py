"""An address as source or destination of a run: S3, or any other store that fsspec opens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from varfix.engine.errors import (
    DecodeUnsupportedError,
    HostMemoryError,
    OutputLockedError,
    PlanError,
    SourceReadError,
    TakenError,
)
from varfix.engine.formats import Header
from varfix.engine.image.bomb_guard import largest_file
from varfix.engine.image.header import probe
from varfix.engine.storage.addresses import display_address
from varfix.engine.storage.fsspec_errors import (
    translate_read_errors,
    translate_store_errors,
    translate_write_errors,
)
from varfix.engine.storage.identity import FetchedFile, KnownFile, ObjectVersion
from varfix.engine.storage.lease import Lease
from varfix.engine.storage.object_manifest import ObjectManifest
from varfix.engine.storage.objects import Objects
from varfix.engine.storage.scan import Filters, ScanResult, apply_filters, is_hidden
from varfix.engine.storage.store import Store
from varfix.engine.system.display_names import single_line
from varfix.engine.system.file_times import FileTimes
from varfix.engine.system.memory import available_memory


class ObjectStore:
    """The objects below an address; see `store.Store` for its methods."""

    folder = None

    def __init__(self, address: str) -> None:
        """Open the address; no request is sent yet.

        Raises:
            ConfigError: The kind of address is unknown, or its package is not installed.
        """
        self._objects = Objects(address)
        self._label = display_address(address).rstrip("/")
        self._lease: Lease | None = None

    def __reduce__(self) -> tuple[type[ObjectStore], tuple[str]]:
        return ObjectStore, (self.address,)

    @property
    def address(self) -> str:
        """Its address, which `open_store` accepts."""
        return self._objects.address

    def label(self, name: str) -> str:
        """Return the address of an object."""
        return f"{self._label}/{name}"

    def find(self, filters: Filters, files: tuple[str, ...] | None, target: Store) -> ScanResult:
        """List all objects, or take those that are named."""
        inner = self.relative_path_of(target)
        excluded = f"{inner}/" if inner else None
        result = ScanResult()
        if files is not None:
            names = dict.fromkeys(self._relative_name(name) for name in files)
            result.sources = list(filters.apply_to_list(names, result))
            return result
        versions: dict[str, ObjectVersion] = {}
        with translate_store_errors(self._label):
            for name, version in self._objects.list_objects(recursive=filters.recursive):
                if not (is_hidden(name, filters) or (excluded and name.startswith(excluded))):
                    versions[name] = version
        apply_filters(filter(_is_path, versions), filters, result)
        result.ignored += [name for name in versions if not _is_path(name)]
        result.versions = {name: versions[name] for name in result.sources}
        return result

    def _relative_name(self, name: str) -> str:
        """Return the name below this address of an object that is given so, or by its address."""
        for start in (f"{self.address.rstrip('/')}/", f"{self._label}/"):
            name = name.removeprefix(start)
        name = name.removeprefix("./")
        if not _is_path(name) or "://" in name:
            raise PlanError(f"{single_line(name)}: not a file in {self._label}")
        return name

    def versions(self, names: list[str]) -> dict[str, ObjectVersion]:
        """Request the version of each object, many at a time."""
        with translate_store_errors(self._label):
            return self._objects.versions(names)

    def fetch(self, name: str, known: KnownFile, admit: Callable[[Header], None]) -> FetchedFile:
        """Read an object whole, then admit its header."""
        with translate_read_errors(self._label):
            version = known.version or self._objects.version(name)
            if version is None:
                raise FileNotFoundError(name)
            if version.st_size > available_memory():
                raise HostMemoryError(
                    f"a file of {version.st_size / 1e9:.1f} GB does not fit into memory",
                    hint="close other programs",
                )
            data = self._objects.read(name)
        if len(data) != version.st_size:
            raise SourceReadError("changed since it was found", hint="run the same command again")
        header = probe(data)
        if len(data) > largest_file(header):
            raise DecodeUnsupportedError(
                f"a file of {len(data) / 1e6:.0f} MB is too large for its image",
                hint="save the image again without the data attached to it",
            )
        admit(header)
        return FetchedFile(version, header, data)

    def relative_path_of(self, other: Store) -> str | None:
        """Return the name of another store in this one, by their addresses."""
        if not isinstance(other, ObjectStore) or other._objects.scheme != self._objects.scheme:
            return None
        outer, inner = self._objects.root, other._objects.root
        return inner[len(outer) + 1 :] if f"{inner}/".startswith(f"{outer}/") else None

    def manifest(self) -> ObjectManifest:
        """Read the journals of earlier runs."""
        return ObjectManifest(self._objects)

    def replaces(self, name: str, source: Path | None) -> bool:
        """Return False: the journal needs no distinction."""
        return False

    def publish(
        self, name: str, data: bytes, *, overwrite: bool, times: FileTimes | None = None
    ) -> None:
        """Write the object in one request, or in parts that appear together."""
        if self._lease is not None and self._lease.lost:
            raise OutputLockedError(
                f"{self._label}: lost the destination lock: another process took it over after"
                " this one stopped renewing it",
                hint="wait for the other run, then run the same command again",
            )
        with translate_write_errors(self._label, single_line(name)):
            try:
                self._objects.write(name, data, "overwrite" if overwrite else "create")
            except FileExistsError as error:
                # It is our own if the response to the first attempt was lost.
                if self._objects.read(name) != data:
                    raise TakenError(
                        f"cannot be written as {single_line(name)} (another program has written"
                        " an object of this name)",
                        hint="add --overwrite to replace it",
                    ) from error

    def discard_unfinished(self) -> None:
        """Do nothing: an unfinished object never appears."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lease."""
        lease = Lease(self._objects)
        lease.acquire()
        self._lease = lease
        try:
            yield
        finally:
            self._lease = None
            lease.release()


def _is_path(name: str) -> bool:
    """Return whether a name stays in its folder on a disk; object keys may be any text."""
    return not any(part in ("", ".", "..") for part in name.split("/"))
