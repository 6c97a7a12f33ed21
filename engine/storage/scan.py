"""Finds the images below a folder (cli/README.md)."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final

import natsort
import pathspec

from varfix.engine.formats import format_of, is_video
from varfix.engine.storage.identity import ObjectVersion
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
# Folders of varfix and of its destinations, which nothing brings back.
_OWN: Final = frozenset({STATE_FOLDER})


@dataclass(frozen=True)
class Filters:
    """Which files count; globs follow the rules of gitignore.

    Attributes:
        include: keep only what one of these matches; empty keeps everything. One that names a
            hidden or system file or folder brings it back.
        exclude: drop what one of these matches.
        recursive: look into folders.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    recursive: bool = True


@dataclass
class ScanResult:
    """What a scan found.

    Attributes:
        sources: names of images and videos below the source, with `/`, in natural order.
        ignored: files that are no images, or were filtered out, and links that lead nowhere.
        denied: folders that cannot be read, and why.
        versions: of objects that a listing has reported.
    """

    sources: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    denied: dict[str, str] = field(default_factory=dict)
    versions: dict[str, ObjectVersion] = field(default_factory=dict)


def scan(source: Path, destination: Path | None, filters: Filters) -> ScanResult:
    """Walk a folder. Hidden and system files are not even counted; links to folders not followed.

    Args:
        source: the folder.
        destination: left out when it lies inside the source.
        filters: which files count.
    """
    found = ScanResult()
    barred = destination.stat() if destination is not None and destination.is_dir() else None
    apply_filters(_Walk(source, barred, filters, found).names(), filters, found)
    return found


def apply_filters(names: Iterable[str], filters: Filters, found: ScanResult) -> None:
    """Put names into `found`: the images in their order, and what is left out."""
    include, exclude = _matcher(filters.include), _matcher(filters.exclude)
    for name in names:
        wanted = not filters.include or include.match_file(name)
        if wanted and not exclude.match_file(name) and _is_known(name):
            found.sources.append(name)
        else:
            found.ignored.append(name)
    found.sources = _ordered(found.sources)


def is_hidden(name: str, filters: Filters) -> bool:
    """Whether a file, or a folder above it, is skipped by a search that does not name it."""
    *folders, last = name.split("/")
    return _is_unseen(last, filters) or any(
        _is_unseen(part, filters) or part.endswith(SEGMENTS_SUFFIX) for part in folders
    )


def _is_unseen(name: str, filters: Filters) -> bool:
    lower = name.lower()
    if not (name.startswith(".") or lower in SYSTEM_NAMES):
        return False
    return name in _OWN or not any(lower in glob.lower() for glob in filters.include)


def _is_known(name: str) -> bool:
    return format_of(name) is not None or is_video(PurePosixPath(name))


def _matcher(globs: tuple[str, ...]) -> pathspec.GitIgnoreSpec:
    return pathspec.GitIgnoreSpec.from_lines(globs)


def _ordered(names: list[str]) -> list[str]:
    """Natural order; names equal in it (`1.jpg`, `01.jpg`) in plain order, on every file system."""
    return natsort.natsorted(sorted(names, key=_sortable), key=_sortable)


def _sortable(name: str) -> str:
    """Names that are no valid UTF-8 hold lone surrogates, which do not compare everywhere."""
    return name.encode("utf-8", "surrogateescape").decode("latin-1")


class _Walk:
    """Goes through a folder and those below it."""

    def __init__(
        self, root: Path, barred: os.stat_result | None, filters: Filters, found: ScanResult
    ) -> None:
        self._root, self._barred = root, barred
        self._filters, self._found = filters, found

    def names(self) -> Iterator[str]:
        """Yield the names of files; what is neither a file nor a folder is counted as ignored."""
        waiting = [""]  # not recursion: folders can be nested deeper than Python's stack
        while waiting:
            below = waiting.pop()
            for entry in self._entries(below):
                name = f"{below}/{entry.name}" if below else entry.name
                if _is_unseen(entry.name, self._filters):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if self._is_entered(entry):
                        waiting.append(name)
                elif _is_regular(entry):
                    yield name
                else:
                    self._found.ignored.append(name)

    def _entries(self, below: str) -> list[os.DirEntry[str]]:
        place = self._root / below
        try:
            return list(os.scandir(place))
        except OSError as error:
            self._found.denied[os.fspath(place)] = (error.strerror or str(error)).lower()
            return []

    def _is_entered(self, entry: os.DirEntry[str]) -> bool:
        if not self._filters.recursive or entry.name.endswith(SEGMENTS_SUFFIX):
            return False
        return not _is(entry, self._barred)


def _is(entry: os.DirEntry[str], barred: os.stat_result | None) -> bool:
    """Whether an entry is the destination, by whatever path that was given."""
    if barred is None:
        return False
    with suppress(OSError):
        # Not `entry.stat()`: it knows no file numbers on Windows.
        return os.path.samestat(Path(entry.path).stat(), barred)
    return False


def _is_regular(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a file, or a link to one: pipes and links to folders are not."""
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False
