"""A folder on a disk as source or destination of a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from varfix.engine.errors import PlanError
from varfix.engine.formats import Header
from varfix.engine.image.bomb_guard import largest_file
from varfix.engine.image.header import probe
from varfix.engine.storage.identity import FetchedFile, KnownFile, ObjectVersion
from varfix.engine.storage.manifest import FileManifest
from varfix.engine.storage.scan import Filters, ScanResult, is_moving, scan
from varfix.engine.storage.store import Store
from varfix.engine.system.atomic import AtomicWriter
from varfix.engine.system.display_names import single_line
from varfix.engine.system.file_times import FileTimes
from varfix.engine.system.files import read_file
from varfix.engine.system.folder_lock import lock_folder


@dataclass(frozen=True)
class LocalStore:
    """A folder; see `store.Store` for its methods."""

    folder: Path
    _writer: AtomicWriter = field(
        default_factory=AtomicWriter, init=False, repr=False, compare=False
    )

    def __reduce__(self) -> tuple[type[LocalStore], tuple[Path]]:
        return LocalStore, (self.folder,)

    @property
    def address(self) -> str:
        """Its path."""
        return os.fspath(self.folder)

    def label(self, name: str) -> str:
        """Return the path as the user could type it."""
        return os.fspath(self.folder / name)

    def find(self, filters: Filters, files: tuple[str, ...] | None, target: Store) -> ScanResult:
        """Walk the folder, or take the files that are listed."""
        excluded = None if target.relative_path_of(self) == "" else target.folder
        if files is None:
            return scan(self.folder, excluded, filters)
        return self._listed(files, excluded, filters)

    def _listed(
        self, files: tuple[str, ...], excluded: Path | None, filters: Filters
    ) -> ScanResult:
        result = ScanResult()
        excluded = None if excluded is None else Path(os.path.realpath(excluded))
        names = dict.fromkeys(_relative_name(self.folder, name) for name in files)
        for name in filters.apply_to_list(names, result):
            path = self.folder / name
            special = path.exists() and not path.is_file()  # lists made by `find` include folders
            parent = Path(os.path.realpath(path.parent))
            if special or (excluded and parent.is_relative_to(excluded)):
                result.ignored.append(name)
                continue
            result.sources.append(name)
            if is_moving(path):
                result.moving.add(name)
        return result

    def versions(self, names: list[str]) -> dict[str, ObjectVersion]:
        """Return none: the identity of a file is read with the file."""
        return {}

    def fetch(self, name: str, known: KnownFile, admit: Callable[[Header], None]) -> FetchedFile:
        """Read a file after its header has been admitted."""
        path = self.folder / name
        header = known.header or probe(path)
        admit(header)
        stat, data = read_file(path, largest_file(header))
        return FetchedFile(stat, header, data)

    def relative_path_of(self, other: Store) -> str | None:
        """Return the path of another store in this one, links resolved."""
        if other.folder is None:
            return None
        inner = Path(os.path.realpath(other.folder))
        outer = Path(os.path.realpath(self.folder))
        if not inner.is_relative_to(outer):
            return None
        path = inner.relative_to(outer).as_posix()
        return "" if path == "." else path

    def manifest(self) -> FileManifest:
        """Read the folder's manifest."""
        return FileManifest(self.folder)

    def replaces(self, name: str, source: Path | None) -> bool:
        """Return whether a file of this name exists that is not the source itself."""
        target = self.folder / name
        with suppress(OSError):  # a name too long to exist: publishing reports it
            if not target.exists():
                return False
            with suppress(OSError):  # the source was removed after it was read
                return source is None or not target.samefile(source)
            return True
        return False

    def publish(
        self, name: str, data: bytes, *, overwrite: bool, times: FileTimes | None = None
    ) -> None:
        """Write a temporary file next to the result, then rename it."""
        self._writer.write(self.folder / name, data, times)

    def discard_unfinished(self) -> None:
        """Remove the temporary files of writes in progress."""
        self._writer.discard()

    def lock(self) -> AbstractContextManager[None]:
        """Hold the folder's lock."""
        return lock_folder(self.folder)


def _relative_name(source: Path, name: str) -> str:
    """Return the name below the source of a listed file, which may be relative to either folder.

    A file that does not exist fails alone, when it is read.
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
    raise PlanError(f"{single_line(name)}: not a file in {single_line(os.fspath(source))}")
