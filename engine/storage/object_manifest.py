"""The record of the results in an object store: `DST/.varfix/journal/`.

The journals of all runs are read and merged in the order of the runs. Confirmed results are taken
as published; the few that were pending at an interruption are compared with their digests.
A small store is also listed, so that a removed result is made again and objects of other programs
are known before any work. A large store is not listed: its confirmed results are taken as present,
and an object is only created where none exists, which protects those of other programs.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

from varfix.engine.errors import OutputLockedError
from varfix.engine.storage.addresses import display_address
from varfix.engine.storage.fsspec_errors import translate_store_errors
from varfix.engine.storage.identity import Identity, ObjectVersion
from varfix.engine.storage.journal import PENDING, ObjectJournal
from varfix.engine.storage.manifest import Entry, ResultStatus
from varfix.engine.storage.objects import Objects
from varfix.engine.system.digests import edge_digest_by_range
from varfix.engine.system.state_folder import STATE_FOLDER

JOURNAL: Final = f"{STATE_FOLDER}/journal/"
# Objects of the destination up to which a resumed run lists it: ten pages of a listing.
MAX_LISTED: Final = 10_000
# Number of parts above which they are merged, and records of a merged part.
_MAX_PARTS: Final = 16
_MERGED_RECORDS: Final = 50_000


class ObjectManifest:
    """The results below one address; see `manifest.Manifest` for its methods."""

    def __init__(self, objects: Objects) -> None:
        """Read the journals.

        Raises:
            StoreError: They cannot be read.
        """
        self._objects = objects
        self._entries: dict[str, Entry] = {}
        self._journal: ObjectJournal | None = None
        with translate_store_errors(display_address(objects.address)):
            self._seen = dict(objects.list_objects(JOURNAL))
            self._parts = sorted(self._seen)
            self._run = 1 + max((_run_of(name) for name in self._parts), default=0)
            pending = self._read()
            self._sizes = self._list()
            self._confirm(pending)

    def prepare(self) -> None:
        """Merge many small parts; an interruption loses no record.

        Raises:
            OutputLockedError: Another run has written here since this one was planned.
            StoreError: It cannot be written.
        """
        place = display_address(self._objects.address)
        with translate_store_errors(place):
            if dict(self._objects.list_objects(JOURNAL)) != self._seen:
                raise OutputLockedError(
                    f"{place}: another varfix process has written here since this run was planned",
                    hint="run the same command again",
                )
            if len(self._parts) > _MAX_PARTS:
                self._merge()

    def _merge(self) -> None:
        entries = iter(self._entries.values())
        for number in itertools.count():
            lines = [entry.line() for entry in itertools.islice(entries, _MERGED_RECORDS)]
            if not lines:
                break
            # Before the journal of this run: digits come before letters.
            self._objects.write(self._name(f"0-{number:06d}.jsonl"), b"".join(lines))
        for name in self._parts:
            self._objects.remove(name)

    @contextmanager
    def recording(self, entry: Entry, replaces: bool) -> Iterator[None]:
        """Record a result that the block publishes; `replaces` makes no difference here."""
        if self._journal is None:
            self._journal = ObjectJournal(self._objects, self._name("run"))
        with self._journal.recording(entry):
            yield
        self._entries[entry.dst] = entry

    def close(self) -> None:
        """Write pending records."""
        if self._journal is not None:
            self._journal.close()

    def status(self, dst: str, source: Identity | None, fingerprint: str) -> ResultStatus:
        """Return the status of an output; an object is never incomplete."""
        entry = self._entries.get(dst)
        if self._sizes is not None:
            if dst not in self._sizes:
                return "missing"
            if entry is None or self._sizes[dst] != entry.out_size:
                return "foreign"
        if entry is None:
            return "missing"
        return "done" if entry.matches(source, fingerprint) else "stale"

    def is_intact(self, dst: str) -> bool:
        """Return whether an object has the size and the edge digest of the recorded result."""
        entry = self._entries.get(dst)
        return entry is not None and self._is_published(entry)

    def source_of(self, dst: str) -> str | None:
        """Return the name of the source of a result; None if it is not recorded."""
        entry = self._entries.get(dst)
        return None if entry is None else entry.src

    def _read(self) -> list[Entry]:
        """Read the entries of all parts; return those that are pending."""
        pending: dict[str, Entry] = {}
        for part in self._objects.read_all(self._parts):
            for entry, open_ in _entries(part.splitlines()):
                if open_:
                    pending[entry.dst] = entry
                else:
                    self._entries[entry.dst] = entry
                    pending.pop(entry.dst, None)
        return list(pending.values())

    def _list(self) -> dict[str, int] | None:
        """Return the sizes of all objects by name; None when there are too many to list."""
        there: dict[str, int] = {}
        for name, version in self._objects.list_objects():
            if len(there) >= MAX_LISTED and self._entries:
                return None
            if not name.startswith(f"{STATE_FOLDER}/"):
                there[name] = version.st_size
        return there

    def _confirm(self, pending: Iterable[Entry]) -> None:
        """Keep the pending entries whose objects were published."""
        for entry in pending:
            if self._is_published(entry):
                self._entries[entry.dst] = entry

    def _is_published(self, entry: Entry) -> bool:
        with translate_store_errors(display_address(self._objects.address)):
            version: ObjectVersion | None = self._objects.version(entry.dst)
            if version is None or version.st_size != entry.out_size:
                return False
            if not entry.out_size:
                return True

            def part(start: int, end: int) -> bytes:
                return self._objects.read_part(entry.dst, start, end)

            return edge_digest_by_range(entry.out_size, part) == entry.out_sha256

    def _name(self, rest: str) -> str:
        return f"{JOURNAL}{self._run:06d}-{rest}"


def _run_of(part: str) -> int:
    number = part.removeprefix(JOURNAL).partition("-")[0]
    return int(number) if number.isdecimal() else 0


def _entries(lines: Iterable[bytes]) -> Iterator[tuple[Entry, bool]]:
    for line in lines:
        try:
            fields = json.loads(line)
            pending = bool(fields.pop(PENDING, False))
            yield Entry(**fields), pending
        except (ValueError, TypeError, AttributeError):
            continue  # written by a later version of varfix
