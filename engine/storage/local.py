"""A folder on a disk as one end of a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from varfix.engine.errors import PlanError
from varfix.engine.formats import Header
from varfix.engine.image.bomb_guard import largest_file
from varfix.engine.image.header import probe
from varfix.engine.storage.manifest import Manifest
from varfix.engine.storage.scan import Filters, Found, scan
from varfix.engine.storage.store import Fetched, Stamp, Store
from varfix.engine.system.atomic import Publisher
from varfix.engine.system.files import read_source, spoken
from varfix.engine.system.folder_lock import exclusive

if TYPE_CHECKING:
    from varfix.engine.batch.plan import Item


@dataclass(frozen=True)
class LocalStore:
    """A folder; for what its methods do see `store.Store`."""

    folder: Path

    @property
    def address(self) -> str:
        """Its path."""
        return os.fspath(self.folder)

    def label(self, name: str) -> str:
        """The path as the user could type it."""
        return os.fspath(self.folder / name)

    def find(self, filters: Filters, files: tuple[str, ...] | None, target: Store) -> Found:
        """Walk the folder, or take the files that are listed."""
        barred = None if target.place_of(self) == "" else target.folder
        if files is None:
            return scan(self.folder, barred, filters)
        return self._listed(files, barred)

    def _listed(self, files: tuple[str, ...], barred: Path | None) -> Found:
        found = Found()
        barred = None if barred is None else Path(os.path.realpath(barred))
        for name in dict.fromkeys(_below(self.folder, name) for name in files):
            path = self.folder / name
            known = path.exists() and not path.is_file()  # folders come along in lists of `find`
            if known or (barred and Path(os.path.realpath(path.parent)).is_relative_to(barred)):
                found.ignored.append(name)
            else:
                found.pictures.append(name)
        return found

    def item(self, item: Item, found: Found) -> Item:
        """Nothing is known but by opening it."""
        return item

    def identities(self, names: list[str]) -> dict[str, Stamp]:
        """None: a file's is read where it is needed."""
        return {}

    def fetch(self, item: Item, admit: Callable[[Header], None]) -> Fetched:
        """Read a file, once its header has been let in."""
        header = item.header or probe(item.source)
        admit(header)
        stat, data = read_source(item.source, largest_file(header))
        return Fetched(stat, header, data)

    def place_of(self, other: Store) -> str | None:
        """As the paths say once links are followed."""
        if other.folder is None:
            return None
        inner = Path(os.path.realpath(other.folder))
        outer = Path(os.path.realpath(self.folder))
        if not inner.is_relative_to(outer):
            return None
        place = inner.relative_to(outer).as_posix()
        return "" if place == "." else place

    def memory(self) -> Manifest:
        """The manifest in it."""
        return Manifest(self.folder)

    def replaces(self, item: Item) -> bool:
        """Whether something is there that is not the source itself."""
        with suppress(OSError):  # a name too long to exist; publishing tells what is wrong with it
            if not item.target.exists():
                return False
            with suppress(OSError):  # the source has gone since it was read
                return not item.target.samefile(item.source)
            return True
        return False

    def publish(self, item: Item, data: bytes, publisher: Publisher) -> None:
        """Write beside the target, then rename."""
        publisher.publish(item.target, data)

    def held(self) -> AbstractContextManager[None]:
        """Hold its lock."""
        return exclusive(self.folder)


def _below(source: Path, name: str) -> str:
    """The name of a listed file below the source, whether listed from there or from here.

    What is not there, or no longer, is found out when its turn comes, and costs itself alone.
    """
    path = Path(name)
    root = Path(os.path.realpath(source))
    inside = []
    for candidate in (path, source / path):
        full = Path(os.path.realpath(candidate.parent)) / candidate.name
        if full.is_relative_to(root):
            inside.append(full.relative_to(root).as_posix())
            if os.path.lexists(candidate):
                return inside[-1]
    if inside:
        return inside[0]
    raise PlanError(f"{spoken(name)}: not a file in {spoken(os.fspath(source))}")
