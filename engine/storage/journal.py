"""A journal in an object store, which knows no appending.

Records go into numbered parts. A part is an object that is written anew, whole, whenever records
come to it, until it is full; so a kill never leaves half a record. A result is entered *before* it
is published, as pending, and confirmed with whatever is written next: what a killed process leaves
pending is at most what its threads were publishing, and the next run looks at those objects, and at
no others. Threads that enter at the same time share one write.
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

# Records of a part: about 100 kB, written again with each new record or group of them.
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
    """The journal of one run; for what its methods do see `manifest.Manifest`."""

    def __init__(self, objects: Objects, prefix: str) -> None:
        """Prepare; nothing is written yet.

        Args:
            objects: of the results' store.
            prefix: of the parts' names.
        """
        # Whatever a second run is called, it must not write over the parts of the first.
        self._objects, self._prefix = objects, f"{prefix}-{secrets.token_hex(4)}"
        self._parts: list[_Part] = []
        self._count = 0
        self._noted = self._durable = 0  # numbers of changes
        self._lock = threading.Lock()  # of the fields above
        self._writing = threading.Lock()

    @contextmanager
    def recording(self, entry: Entry) -> Iterator[None]:
        """Publish in the block: entered as pending before it, confirmed after it."""
        part, change = self._enter(entry)
        self._commit(change)
        yield
        self._confirm(part, entry)

    def close(self) -> None:
        """Write the confirmations that no later record took along."""
        with suppress(VarfixError):  # they stay pending, and the next run looks
            self._commit(self._noted)

    def _enter(self, entry: Entry) -> tuple[_Part, int]:
        with self._lock:
            if not self._parts or self._parts[-1].full:
                self._parts = [part for part in self._parts if not part.finished]
                self._parts.append(_Part(f"{self._prefix}-{self._count:06d}.jsonl"))
                self._count += 1
            part = self._parts[-1]
            part.lines[entry.dst] = entry.line(**{PENDING: True})
            part.open.add(entry.dst)
            part.changed = True
            self._noted += 1
            return part, self._noted

    def _confirm(self, part: _Part, entry: Entry) -> None:
        with self._lock:
            part.lines[entry.dst] = entry.line()
            part.open.discard(entry.dst)
            part.changed = True
            self._noted += 1

    def _commit(self, change: int) -> None:
        """Have all up to a change written, by this thread or by one that is at it."""
        with self._writing:
            if self._durable >= change:
                return
            with self._lock:
                noted = self._noted
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
            self._durable = noted
