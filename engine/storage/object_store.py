"""An address as one end of a run: S3 and what is like it, and whatever else fsspec opens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

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
from varfix.engine.storage.fsspec_errors import asking, reading, writing
from varfix.engine.storage.lease import Lease
from varfix.engine.storage.object_manifest import StoreMemory
from varfix.engine.storage.objects import Objects
from varfix.engine.storage.scan import Filters, Found, is_hidden, sift
from varfix.engine.storage.store import Fetched, Stamp, Store, shown
from varfix.engine.system.atomic import Publisher
from varfix.engine.system.files import spoken
from varfix.engine.system.memory import available

if TYPE_CHECKING:
    from varfix.engine.batch.plan import Item


class FsspecStore:
    """What lies below an address; for what its methods do see `store.Store`."""

    folder = None

    def __init__(self, address: str) -> None:
        """Open; nothing is asked of the store yet.

        Raises:
            ConfigError: No such kind of address, or its package is not installed.
        """
        self._objects = Objects(address)
        self._shown = shown(address).rstrip("/")
        self._lease: Lease | None = None

    def __reduce__(self) -> tuple[type[FsspecStore], tuple[str]]:
        return FsspecStore, (self.address,)

    @property
    def address(self) -> str:
        """What opens it again."""
        return self._objects.address

    def label(self, name: str) -> str:
        """The address of an object."""
        return f"{self._shown}/{name}"

    def find(self, filters: Filters, files: tuple[str, ...] | None, target: Store) -> Found:
        """List all objects, or take those that are named."""
        inner = self.place_of(target)
        barred = f"{inner}/" if inner else None
        found = Found()
        if files is not None:
            found.pictures = list(dict.fromkeys(self._below(name) for name in files))
            return found
        stamps: dict[str, Stamp] = {}
        with asking(self._shown):
            for name, stamp in self._objects.every(recursive=filters.recursive):
                if not (is_hidden(name) or (barred and name.startswith(barred))):
                    stamps[name] = stamp
        sift(filter(_is_path, stamps), filters, found)
        found.ignored += [name for name in stamps if not _is_path(name)]
        found.stamps = {name: stamps[name] for name in found.pictures}
        return found

    def _below(self, name: str) -> str:
        """The name below this address of a file that is named from there, or in full."""
        for start in (f"{self.address.rstrip('/')}/", f"{self._shown}/"):
            name = name.removeprefix(start)
        name = name.removeprefix("./")
        if not _is_path(name) or "://" in name:
            raise PlanError(f"{spoken(name)}: not a file in {self._shown}")
        return name

    def item(self, item: Item, found: Found) -> Item:
        """The item with its identity from the listing."""
        return replace(item, stamp=found.stamps.get(item.src))

    def identities(self, names: list[str]) -> dict[str, Stamp]:
        """Ask for each, many at a time."""
        with asking(self._shown):
            return self._objects.stamps(names)

    def fetch(self, item: Item, admit: Callable[[Header], None]) -> Fetched:
        """Read an object whole, then look at its header."""
        with reading(self._shown):
            stamp = item.stamp or self._objects.stamp(item.src)
            if stamp is None:
                raise FileNotFoundError(item.src)
            if stamp.st_size > available():
                raise HostMemoryError(
                    f"a file of {stamp.st_size / 1e9:.1f} GB does not fit into memory",
                    hint="close other programs",
                )
            data = self._objects.read(item.src)
        if len(data) != stamp.st_size:
            raise SourceReadError("changed since it was found", hint="run the same command again")
        header = probe(data)
        if len(data) > largest_file(header):
            raise DecodeUnsupportedError(
                f"a file of {len(data) / 1e6:.0f} MB is too large for its image",
                hint="Save the image again, without what is attached to it.",
            )
        admit(header)
        return Fetched(stamp, header, data)

    def place_of(self, other: Store) -> str | None:
        """As the addresses say."""
        if not isinstance(other, FsspecStore) or other._objects.scheme != self._objects.scheme:
            return None
        mine, its = self._objects.root, other._objects.root
        return its[len(mine) + 1 :] if f"{its}/".startswith(f"{mine}/") else None

    def memory(self) -> StoreMemory:
        """What its journals say."""
        return StoreMemory(self._objects)

    def replaces(self, item: Item) -> bool:
        """As the plan allows."""
        return item.replaces

    def publish(self, item: Item, data: bytes, publisher: Publisher) -> None:
        """Put the object, in one go, or in parts that appear together."""
        if self._lease is not None and self._lease.lost:
            raise OutputLockedError(
                f"{self._shown}: another varfix has taken over, as this one was silent for long",
                hint="wait for it, then run the same command again",
            )
        with writing(self._shown, spoken(item.dst)):
            try:
                self._objects.write(item.dst, data, "overwrite" if item.replaces else "create")
            except FileExistsError as error:
                # Our own, where the store's answer to the first try got lost.
                if self._objects.read(item.dst) != data:
                    raise TakenError(
                        f"a file that this run did not make is there as {spoken(item.dst)}",
                        hint="add --overwrite to replace it",
                    ) from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lease."""
        lease = Lease(self._objects)
        lease.take()
        self._lease = lease
        try:
            yield
        finally:
            self._lease = None
            lease.drop()


def _is_path(name: str) -> bool:
    """Whether a name would stay in its folder on a disk; keys of objects are any text."""
    return not any(part in ("", ".", "..") for part in name.split("/"))
