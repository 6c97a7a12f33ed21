"""Originals of the images that a folder's runs have replaced, and the way back (cli/README.md).

The original of `DIR/a/b.jpg` is kept as `DIR/.varfix/originals/a/b.jpg`, or in a folder that the
user names. `DIR/.varfix/originals.jsonl`, the journal, has a line for every result that was about
to replace its original, by which a result is distinguished from a file that the user has changed.
"""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

from varfix.engine.errors import PlanError, TakenError
from varfix.engine.system.atomic import translate_os_errors
from varfix.engine.system.digests import file_sha256
from varfix.engine.system.original_file import (
    has_same_content,
    is_same_file,
    link_or_copy,
    move_back,
)
from varfix.engine.system.state_folder import STATE_FOLDER

_FOLDER: Final = "originals"
_JOURNAL: Final = "originals.jsonl"


class Originals:
    """The originals of one folder.

    Attributes:
        root: The folder of the images.
        folder: The folder of their originals.
        is_inside: The originals are in the state folder of `root`.
    """

    def __init__(self, root: Path, backup: Path | None = None) -> None:
        """Read the journal.

        Args:
            root: The folder of the images.
            backup: Folder of the originals; None = in the state folder.

        Raises:
            OutputError: The journal cannot be read.
        """
        self.root = root
        self.folder = root / STATE_FOLDER / _FOLDER if backup is None else backup.absolute()
        self.is_inside = backup is None
        self._journal = root / STATE_FOLDER / _JOURNAL
        self._lock = threading.Lock()
        self._results: dict[str, set[str]] = {}
        self._recorded_folder: str | None = None
        self.reload()

    def reload(self) -> None:
        """Read the journal again, after another run has had the lock."""
        self._results = defaultdict(set)
        for line in _lines(self._journal):
            self._results[line["name"]].add(line["sha256"])
            self._recorded_folder = line["folder"]

    def check_folder(self) -> None:
        """Check that earlier runs have kept their originals in the same folder.

        Raises:
            PlanError: They are in another one.
        """
        here = None if self.is_inside else os.fspath(self.folder)
        if not self._results or self._recorded_folder == here:
            return
        folder = self._recorded_folder
        option = "leave out --backup" if folder is None else f"add --backup {folder}"
        raise PlanError(
            f"the originals of {self.root} are in {folder or self.root / STATE_FOLDER / _FOLDER}",
            hint=option,
        )

    def path(self, name: str) -> Path:
        """Return where the original of an image is kept."""
        return self.folder / name

    def is_kept(self, name: str) -> bool:
        """Return whether the original of an image is kept, and no longer in its place."""
        if name not in self._results and not self.is_inside:
            return False
        kept = self.path(name)
        return kept.is_file() and not is_same_file(kept, self.root / name)

    def source(self, name: str) -> Path:
        """Return the path of the original of an image, kept or in its place."""
        return self.path(name) if self.is_kept(name) else self.root / name

    def is_original(self, name: str) -> bool:
        """Return whether a file in its place has the content of its kept original."""
        return has_same_content(self.path(name), self.root / name)

    def is_result(self, name: str) -> bool:
        """Return whether a file in its place is a result that has replaced an original."""
        with suppress(OSError):
            return file_sha256(self.root / name) in self._results.get(name, ())
        return False

    def is_changed(self, name: str) -> bool:
        """Return whether a file in its place is neither the original nor a result."""
        exists = (self.root / name).exists()
        return exists and not self.is_result(name) and not self.is_original(name)

    def keep(self, name: str, sha256: str) -> None:
        """Keep the original of an image that a result is about to replace; thread-safe.

        Args:
            name: Name of the image.
            sha256: Digest of the result.

        Raises:
            TakenError: The image was changed after its original was kept, or another file has the
                name of the original.
            OutputError: The original cannot be kept.
        """
        kept = self.path(name)
        is_kept = self.is_kept(name)
        if is_kept and self.is_changed(name):
            raise TakenError(
                "was changed after varfix restored it",
                hint="give it another name, or bring its original back with"
                f" 'varfix undo --overwrite {self.root}'",
            )
        if not is_kept and kept.exists():
            raise TakenError(
                f"its original cannot be kept: {kept} exists",
                hint="name an empty folder with --backup",
            )
        # First: an original that is kept without a line would be taken for a file of the user.
        self._record(name, sha256)
        if not is_kept:
            with translate_os_errors(kept):
                link_or_copy(self.root / name, kept)

    def names(self) -> list[str]:
        """Return the names of the images whose originals are kept."""
        names = set(self._results)
        if self.is_inside:
            names.update(_files(self.folder))
        return sorted(name for name in names if self.path(name).is_file())

    def bring_back(self, name: str) -> None:
        """Put an original in its place, whatever is there.

        Raises:
            OutputError: It cannot be written.
        """
        place = self.root / name
        with translate_os_errors(place):
            move_back(self.path(name), place)

    def remove_unused(self) -> None:
        """Remove second names of images that were not replaced; only while the folder is locked."""
        for name in self.names():
            kept = self.path(name)
            if is_same_file(kept, self.root / name):
                with suppress(OSError):
                    kept.unlink()

    def clean_up(self) -> None:
        """Remove empty folders, and the journal if no original is left."""
        _remove_empty_folders(self.folder)
        if not self.names():
            with suppress(OSError):
                self._journal.unlink(missing_ok=True)

    def _record(self, name: str, sha256: str) -> None:
        folder = None if self.is_inside else os.fspath(self.folder)
        line = json.dumps({"name": name, "sha256": sha256, "folder": folder}) + "\n"
        data = line.encode("ascii")
        with self._lock, translate_os_errors(self._journal, len(data)):
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            with self._journal.open("ab+") as file:
                if file.tell() > 0:
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        data = b"\n" + data  # the last line was cut short
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            self._results[name].add(sha256)
            self._recorded_folder = folder


def has_been_in_place(folder: Path) -> bool:
    """Return whether images of a folder were replaced by their results."""
    return (folder / STATE_FOLDER / _JOURNAL).is_file()


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with translate_os_errors(path):
        data = path.read_bytes()
    for line in data.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            fields = json.loads(line)
            if _is_inner(fields["name"]) and fields["sha256"] and "folder" in fields:
                yield fields


def _is_inner(name: str) -> bool:
    """Return whether a name from a file is one below a folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _files(folder: Path) -> Iterator[str]:
    """Yield the names of all files below a folder, except unfinished ones."""
    for parent, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(".part"):
                yield (Path(parent) / name).relative_to(folder).as_posix()


def _remove_empty_folders(folder: Path) -> None:
    for parent, _, _ in os.walk(folder, topdown=False):
        with suppress(OSError):  # not empty
            Path(parent).rmdir()
