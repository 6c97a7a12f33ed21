"""The journal of a run in an object store, where nothing can be appended.

Records go into numbered parts. A part is an object that is rewritten whole with each new record
until it is full, so an interruption never leaves half a record. A result is recorded as pending
*before* it is published, and confirmed with the next write: a killed process leaves at most the
results pending that its threads were publishing, and the next run checks those objects only.
Threads that record at the same time share one write.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from varfix.engine.errors import VarfixError
from varfix.engine.storage.addresses import display_address
from varfix.engine.storage.fsspec_errors import translate_store_errors
from varfix.engine.storage.manifest import Entry
from varfix.engine.storage.objects import Objects

# Records of a part: about 100 kB, rewritten with each new record or group of records.
PART: Final = 250
PENDING: Final = "pending"


@dataclass
class _Part:
    name: str
    lines: dict[str, bytes] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)
    changed: bool = False

    @property
    def full(self) -> bool:
        return len(self.lines) >= PART

    @property
    def finished(self) -> bool:
        return self.full and not self.open and not self.changed


class ObjectJournal:
    """The journal of one run; see `manifest.Manifest` for its methods."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        """Create the journal; nothing is written yet.

        Args:
            objects: Objects of the destination.
            prefix: Prefix of the names of its parts.
        """
        # The random part of the name: a second run must never overwrite the parts of the first.
        self._objects, self._prefix = objects, f"{prefix}-{secrets.token_hex(4)}"
        self._parts: list[_Part] = []
        self._count = 0
        self._changes = self._written = 0  # how many changes were made, and written
        self._lock = threading.Lock()  # of the fields above
        self._writing = threading.Lock()

    @contextmanager
    def recording(self, entry: Entry) -> Iterator[None]:
        """Record a result as pending, run the block that publishes it, then confirm it."""
        part, change = self._add(entry)
        self._commit(change)
        yield
        self._confirm(part, entry)

    def close(self) -> None:
        """Write the confirmations that no later write included."""
        with suppress(VarfixError):  # they stay pending, and the next run checks them
            self._commit(self._changes)

    def _add(self, entry: Entry) -> tuple[_Part, int]:
        with self._lock:
            if not self._parts or self._parts[-1].full:
                self._parts = [part for part in self._parts if not part.finished]
                self._parts.append(_Part(f"{self._prefix}-{self._count:06d}.jsonl"))
                self._count += 1
            part = self._parts[-1]
            part.lines[entry.dst] = entry.line(**{PENDING: True})
            part.open.add(entry.dst)
            part.changed = True
            self._changes += 1
            return part, self._changes

    def _confirm(self, part: _Part, entry: Entry) -> None:
        with self._lock:
            part.lines[entry.dst] = entry.line()
            part.open.discard(entry.dst)
            part.changed = True
            self._changes += 1

    def _commit(self, change: int) -> None:
        """Wait until all changes up to `change` are written, by this thread or by another."""
        with self._writing:
            if self._written >= change:
                return
            with self._lock:
                changes = self._changes
                parts = [part for part in self._parts if part.changed]
                texts = [(part.name, b"".join(part.lines.values())) for part in parts]
                for part in parts:
                    part.changed = False
            try:
                with translate_store_errors(display_address(self._objects.address)):
                    for name, text in texts:
                        self._objects.write(name, text)
            except BaseException:
                with self._lock:
                    for part in parts:
                        part.changed = True
                raise
            self._written = changes
