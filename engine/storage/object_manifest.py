"""What is known of the results in an object store: `DST/.varfix/journal/`.

The journals of all runs are read, and merged in the order of the runs. What they say was published
is believed, but for what was still pending when a process was killed: those objects, a handful, are
compared with their digests. A small store is listed besides, so that a result that somebody has
removed is made again, and what is not varfix's is known before any work. A large one is not: its
results are believed to be there, and writing only where nothing is protects what is a stranger's.
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
# Objects of the destination that a run that goes on looks at: ten pages of a listing.
LOOKED_AT: Final = 10_000
# Parts of journals from which on they are put together, and records of such a part.
_SCATTERED: Final = 16
_FOLDED: Final = 50_000


class ObjectManifest:
    """The results below one address; for what its methods do see `manifest.Manifest`."""

    def __init__(self, objects: Objects) -> None:
        """Read what is there.

        Raises:
            StoreError: It cannot be read.
        """
        self._objects = objects
        self._entries: dict[str, Entry] = {}
        self._journal: ObjectJournal | None = None
        with translate_store_errors(display_address(objects.address)):
            self._seen = dict(objects.list(JOURNAL))
            self._parts = sorted(self._seen)
            self._run = 1 + max((_run_of(name) for name in self._parts), default=0)
            pending = self._read()
            self._there = self._look()
            self._settle(pending)

    def prepare(self) -> None:
        """Put many small parts together; a kill in between leaves all that was known.

        Raises:
            OutputLockedError: A run that has ended since this one was planned has written here.
            StoreError: It cannot be written.
        """
        place = display_address(self._objects.address)
        with translate_store_errors(place):
            if dict(self._objects.list(JOURNAL)) != self._seen:
                raise OutputLockedError(
                    f"{place}: another varfix has just written here",
                    hint="run the same command again",
                )
            if len(self._parts) > _SCATTERED:
                self._fold()

    def _fold(self) -> None:
        entries = iter(self._entries.values())
        for number in itertools.count():
            lines = [entry.line() for entry in itertools.islice(entries, _FOLDED)]
            if not lines:
                break
            # Before the journal of this run: digits come before letters.
            self._objects.write(self._name(f"0-{number:06d}.jsonl"), b"".join(lines))
        for name in self._parts:
            self._objects.remove(name)

    @contextmanager
    def recording(self, entry: Entry, replaces: bool) -> Iterator[None]:
        """Publish in the block; whether something is replaced makes no difference here."""
        if self._journal is None:
            self._journal = ObjectJournal(self._objects, self._name("run"))
        with self._journal.recording(entry):
            yield
        self._entries[entry.dst] = entry

    def close(self) -> None:
        """Write what is not yet written."""
        if self._journal is not None:
            self._journal.close()

    def status(self, dst: str, source: Identity | None, fingerprint: str) -> ResultStatus:
        """What an output is; an object is never cut short."""
        entry = self._entries.get(dst)
        if self._there is not None:
            if dst not in self._there:
                return "missing"
            if entry is None or self._there[dst] != entry.out_size:
                return "foreign"
        if entry is None:
            return "missing"
        return "done" if entry.matches(source, fingerprint) else "stale"

    def is_intact(self, dst: str) -> bool:
        """Whether an object has the size and the ends of what was written under its name."""
        entry = self._entries.get(dst)
        return entry is not None and self._holds(entry)

    def source_of(self, dst: str) -> str | None:
        """The name of the source from which an output was made; None if it was not."""
        entry = self._entries.get(dst)
        return None if entry is None else entry.src

    def _read(self) -> list[Entry]:
        """Take in the entries of all parts; return those that were pending."""
        pending: dict[str, Entry] = {}
        for part in self._objects.read_all(self._parts):
            for entry, open_ in _entries(part.splitlines()):
                if open_:
                    pending[entry.dst] = entry
                else:
                    self._entries[entry.dst] = entry
                    pending.pop(entry.dst, None)
        return list(pending.values())

    def _look(self) -> dict[str, int] | None:
        """Sizes of what is there by names; None when that is too much to look at again."""
        there: dict[str, int] = {}
        for name, version in self._objects.list():
            if len(there) >= LOOKED_AT and self._entries:
                return None
            if not name.startswith(f"{STATE_FOLDER}/"):
                there[name] = version.st_size
        return there

    def _settle(self, pending: Iterable[Entry]) -> None:
        """Keep of the pending entries those whose objects have come."""
        for entry in pending:
            if self._holds(entry):
                self._entries[entry.dst] = entry

    def _holds(self, entry: Entry) -> bool:
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
            facts = json.loads(line)
            pending = bool(facts.pop(PENDING, False))
            yield Entry(**facts), pending
        except (ValueError, TypeError, AttributeError):
            continue  # of a later version of varfix
