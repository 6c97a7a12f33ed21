"""The record of finished results in a destination: `DST/.varfix/run.jsonl` (cli/README.md).

Each finished item is one line, appended and flushed; a line cut short by an interruption is
ignored. A repeated command reads the manifest and knows which outputs are its own, from which
source and with which settings. Object stores cannot append: see `object_manifest`.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from varfix.engine.storage.identity import Identity, tag_of
from varfix.engine.system.atomic import translate_os_errors
from varfix.engine.system.digests import edge_digest, edge_digest_of_file
from varfix.engine.system.state_folder import STATE_FOLDER

ResultStatus = Literal["missing", "smaller", "done", "stale", "foreign"]
"""An output is absent; smaller than it was written (interrupted, or changed by another program);
current; made from another source or with other settings; or not a result of varfix."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One finished item.

    Attributes:
        dst: Name below the destination.
        src: Name below the source.
        size: Bytes of the source.
        mtime_ns: Time of the source's last change.
        recipe: Fingerprint of the settings (`batch/fingerprint.py`).
        out_size: Bytes of the result.
        out_sha256: Digest of the result's first and last MiB.
        seconds: Spent on reading and restoring it.
        tag: The store's checksum of the source's content; empty for a file on a disk.
    """

    dst: str
    src: str
    size: int
    mtime_ns: int
    recipe: str
    out_size: int
    out_sha256: str
    seconds: float
    tag: str = ""

    def matches(self, source: Identity | None, fingerprint: str) -> bool:
        """Return whether the result was made from this source with these settings."""
        if source is None or (self.size, self.recipe) != (source.st_size, fingerprint):
            return False
        tag = tag_of(source)
        # A tag belongs to the content: it still matches after a copy to another store.
        return self.tag == tag if tag and self.tag else self.mtime_ns == source.st_mtime_ns

    def is_from(self, source: Identity) -> bool:
        """Return whether the result was made from this source, with whatever settings."""
        return self.matches(source, self.recipe)

    def line(self, **more: Any) -> bytes:
        """Return the entry as a line of a manifest, with the fields `more` added."""
        fields = asdict(self) | more
        if not self.tag:
            del fields["tag"]  # lines of folders have never had it
        return json.dumps(fields).encode("ascii") + b"\n"


class Manifest(Protocol):
    """The record of the results in one destination."""

    def prepare(self) -> None:
        """Clean up after earlier runs; only while the destination is locked.

        Raises:
            OutputError: It cannot be written, or was written since it was read.
        """
        ...

    def recording(self, entry: Entry, replaces: bool) -> AbstractContextManager[None]:
        """Record a result that the block publishes, in the order that survives an interruption.

        A result that is recorded first and then not published is missing, and made again. If it
        were published first, the next run would treat it as a foreign file. Thread-safe.

        Args:
            entry: The result.
            replaces: An older result exists and will be replaced.

        Raises:
            OutputError: It cannot be recorded.
        """
        ...

    def close(self) -> None:
        """Write pending records; the next run checks results whose records could not be written."""
        ...

    def status(self, dst: str, source: Identity | None, fingerprint: str) -> ResultStatus:
        """Return the status of an output with regard to its source and settings."""
        ...

    def is_intact(self, dst: str) -> bool:
        """Return whether a file is the recorded result, by its first and last MiB."""
        ...

    def source_of(self, dst: str) -> str | None:
        """Return the name of the source of a result; None if it is not recorded."""
        ...


class FileManifest:
    """The manifest of one folder; appending is safe from several threads."""

    def __init__(self, destination: Path) -> None:
        self.destination = destination
        self.path = destination / STATE_FOLDER / "run.jsonl"
        self._entries = _read(self.path)
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    def prepare(self) -> None:
        """Do nothing: a file needs no cleaning up."""

    @contextmanager
    def recording(self, entry: Entry, replaces: bool) -> Iterator[None]:
        """Record a result that the block publishes; see `Manifest`.

        The entry is written after the result only where an older result is replaced, because it
        would confirm the old result. (In place this is not necessary: the digest is compared.)
        """
        if not replaces:
            self.append(entry)
        yield
        if replaces:
            self.append(entry)

    def status(self, dst: str, source: Identity | None, fingerprint: str) -> ResultStatus:
        """Return the status of an output with regard to its source and settings."""
        path = self.destination / dst
        try:
            stat = path.stat()
        except OSError:
            return "missing"
        entry = self._entries.get(dst)
        if entry is None or stat.st_size > entry.out_size:
            return "foreign"
        if stat.st_size < entry.out_size:
            return "smaller"
        if isinstance(source, os.stat_result) and os.path.samestat(stat, source):
            # In place the source is gone: this is either our result or a new image.
            same = entry.recipe == fingerprint
            return ("done" if same else "stale") if self.is_intact(dst) else "foreign"
        return "done" if entry.matches(source, fingerprint) else "stale"

    def is_intact(self, dst: str) -> bool:
        """Return whether a file is the recorded result, by its first and last MiB."""
        entry = self._entries.get(dst)
        if entry is None:
            return False
        with suppress(OSError):
            return edge_digest_of_file(self.destination / dst) == entry.out_sha256
        return False

    def source_of(self, dst: str) -> str | None:
        """Return the name of the source of a result; None if it is not recorded."""
        entry = self._entries.get(dst)
        return None if entry is None else entry.src

    def entry_of(self, dst: str) -> Entry | None:
        """Return what is recorded about a result."""
        return self._entries.get(dst)

    def results(self) -> dict[str, str]:
        """Return the names of the results by the names of their sources."""
        return {entry.src: entry.dst for entry in self._entries.values()}

    def append(self, entry: Entry) -> None:
        """Record a finished item.

        Raises:
            OutputError: The manifest cannot be written.
        """
        line = entry.line()
        with self._lock, translate_os_errors(self.path, len(line)):
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = _open_for_append(self.path)
            self._file.write(line)
            self._file.flush()
            self._entries[entry.dst] = entry

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            # A full disk fails here once more; `append` has reported it.
            with suppress(OSError):
                self._file.close()
            self._file = None


def image_entry(dst: str, src: str, stat: Identity, fingerprint: str, data: bytes) -> Entry:
    """Return the entry of an image's result, without the seconds it took.

    Args:
        dst: Name of the result.
        src: Name of the source.
        stat: Identity of the source.
        fingerprint: Fingerprint of the settings.
        data: The result's file.
    """
    return Entry(
        dst=dst,
        src=src,
        size=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        recipe=fingerprint,
        out_size=len(data),
        out_sha256=edge_digest(data),
        seconds=0.0,
        tag=tag_of(stat),
    )


def _read(path: Path) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    if not path.is_file():
        return entries
    with translate_os_errors(path):
        data = path.read_bytes()
    for line in data.splitlines():
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue
        entries[entry.dst] = entry
    return entries


def _open_for_append(path: Path) -> BinaryIO:
    """Open a manifest, ending an incomplete last line so that the next line is not glued to it."""
    file = path.open("ab+")
    if file.tell() > 0:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
    return file
