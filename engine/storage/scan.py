"""Finds the images and videos below a folder (cli/README.md)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import natsort
import pathspec

from varfix.engine.errors import SourceReadError
from varfix.engine.formats import UNSURE_EXTENSIONS, format_of, is_transport_stream, is_video
from varfix.engine.image.animation import is_animated
from varfix.engine.storage.identity import ObjectVersion
from varfix.engine.system.files import open_source
from varfix.engine.system.state_folder import SEGMENTS_SUFFIX, STATE_FOLDER

SYSTEM_NAMES: Final = frozenset(
    {
        "thumbs.db",
        "desktop.ini",
        "__macosx",
        "ehthumbs.db",
        "$recycle.bin",
        "system volume information",
        "recycler",
        "lost+found",
        # Thumbnails, recycle bins and snapshots of network storage.
        "@eadir",
        "#recycle",
        "@recycle",
        "#snapshot",
        "@recently-snapshot",
        ".@__thumb",
    }
)
_HEAD: Final = 400  # bytes that show a transport stream
# Folders of varfix and of its destinations, which nothing brings back.
_OWN: Final = frozenset({STATE_FOLDER})


@dataclass(frozen=True)
class Filters:
    """Which files count; globs follow the rules of gitignore.

    Attributes:
        include: Keep only names that match one of these; empty keeps all. A pattern that names
            a hidden or system file or folder brings it back.
        exclude: Leave out names that match one of these.
        recursive: Include subfolders.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    recursive: bool = True

    def matcher(self) -> Callable[[str], bool]:
        """Return a function that says whether a name passes the globs."""
        include = pathspec.GitIgnoreSpec.from_lines(self.include)
        exclude = pathspec.GitIgnoreSpec.from_lines(self.exclude)

        def is_wanted(name: str) -> bool:
            included = not self.include or include.match_file(name)
            return included and not exclude.match_file(name)

        return is_wanted

    def apply_to_list(self, names: Iterable[str], result: ScanResult) -> Iterator[str]:
        """Yield the listed names that count, in their order; add the others to `result.ignored`.

        Hidden and system files count: the list names them.
        """
        is_wanted = self.matcher()
        for name in names:
            if is_wanted(name) and (self.recursive or "/" not in name):
                yield name
            else:
                result.ignored.append(name)


@dataclass
class ScanResult:
    """The result of a scan.

    Attributes:
        sources: Names of images and videos below the source, with `/`, in natural order.
        ignored: Names of other files, of those that the filters left out, and of links that lead
            nowhere.
        denied: Folders that cannot be read, and the reason.
        versions: Versions of listed objects.
        moving: Names of videos whose extension does not tell that they are.
    """

    sources: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    denied: dict[str, str] = field(default_factory=dict)
    versions: dict[str, ObjectVersion] = field(default_factory=dict)
    moving: set[str] = field(default_factory=set)

    def is_video(self, name: str) -> bool:
        """Return whether a source is a video or an animation."""
        return name in self.moving or is_video(PurePosixPath(name))


def scan(source: Path, destination: Path | None, filters: Filters) -> ScanResult:
    """Walk a folder; skip hidden files, system files, and links to folders.

    Args:
        source: The folder.
        destination: Left out when it is inside the source.
        filters: Which files count.
    """
    result = ScanResult()
    excluded = destination.stat() if destination is not None and destination.is_dir() else None
    apply_filters(_Walk(source, excluded, filters, result).names(), filters, result, source)
    return result


def apply_filters(
    names: Iterable[str], filters: Filters, result: ScanResult, folder: Path | None = None
) -> None:
    """Sort names into `result`: sources in natural order, and ignored names.

    Args:
        names: Names below the source.
        filters: Which files count.
        result: Receives the names.
        folder: The source, if files can be looked into.
    """
    is_wanted = filters.matcher()
    for name in names:
        if not is_wanted(name):
            result.ignored.append(name)
        elif folder is not None and is_moving(folder / name):
            result.sources.append(name)
            result.moving.add(name)
        elif _is_known(name):
            result.sources.append(name)
        else:
            result.ignored.append(name)
    result.sources = _ordered(result.sources)


def is_moving(path: Path) -> bool:
    """Return whether a file is a video although its extension does not tell; see `ScanResult`."""
    suffix = path.suffix.lower()
    if suffix not in UNSURE_EXTENSIONS:
        return False
    if suffix != ".ts":
        return is_animated(path)
    with suppress(OSError, SourceReadError), open_source(path) as file:
        return is_transport_stream(file.read(_HEAD))
    return False


def is_hidden(name: str, filters: Filters) -> bool:
    """Return whether a file, or a folder above it, is skipped by a search that does not name it."""
    *folders, last = name.split("/")
    return _is_skipped(last, filters) or any(
        _is_skipped(part, filters) or part.endswith(SEGMENTS_SUFFIX) for part in folders
    )


def _is_skipped(name: str, filters: Filters) -> bool:
    lower = name.lower()
    if not (name.startswith(".") or lower in SYSTEM_NAMES):
        return False
    return name in _OWN or not any(lower in glob.lower() for glob in filters.include)


def _is_known(name: str) -> bool:
    return format_of(name) is not None or is_video(PurePosixPath(name))


def _ordered(names: list[str]) -> list[str]:
    """Return names in natural order; equal names (`1.jpg`, `01.jpg`) by bytes, on every system."""
    return natsort.natsorted(sorted(names, key=_sortable), key=_sortable)


def _sortable(name: str) -> str:
    """Return a sort key; names that are not valid UTF-8 do not compare on every system."""
    return name.encode("utf-8", "surrogateescape").decode("latin-1")


class _Walk:
    """Goes through a folder and those below it."""

    def __init__(
        self, root: Path, excluded: os.stat_result | None, filters: Filters, result: ScanResult
    ) -> None:
        self._root, self._excluded = root, excluded
        self._filters, self._result = filters, result

    def names(self) -> Iterator[str]:
        """Yield the names of files; count other entries that are not folders as ignored."""
        waiting = [""]  # not recursion: folders can be nested deeper than Python's stack
        while waiting:
            below = waiting.pop()
            for entry in self._entries(below):
                name = f"{below}/{entry.name}" if below else entry.name
                if _is_skipped(entry.name, self._filters):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if self._is_entered(entry):
                        waiting.append(name)
                elif _is_regular(entry):
                    yield name
                else:
                    self._result.ignored.append(name)

    def _entries(self, below: str) -> list[os.DirEntry[str]]:
        place = self._root / below
        try:
            return list(os.scandir(place))
        except OSError as error:
            self._result.denied[os.fspath(place)] = (error.strerror or str(error)).lower()
            return []

    def _is_entered(self, entry: os.DirEntry[str]) -> bool:
        if not self._filters.recursive or entry.name.endswith(SEGMENTS_SUFFIX):
            return False
        return not _is(entry, self._excluded)


def _is(entry: os.DirEntry[str], excluded: os.stat_result | None) -> bool:
    """Return whether an entry is the destination, however its path was written."""
    if excluded is None:
        return False
    with suppress(OSError):
        # Not `entry.stat()`: it has no file numbers on Windows.
        return os.path.samestat(Path(entry.path).stat(), excluded)
    return False


def _is_regular(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a file or a link to a file, and no pipe, socket or folder."""
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False
