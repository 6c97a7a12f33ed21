"""The record of single results, which have no manifest beside them: by whom and from what.

It is kept with the user's own files, so that nothing appears next to a result. The record of a
folder is its manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from varfix.engine.errors import OutputError
from varfix.engine.storage.identity import Identity
from varfix.engine.storage.manifest import Entry, FileManifest, ResultStatus


class ResultHistory:
    """The results of single files."""

    def __init__(self, folder: Path) -> None:
        """Read the record.

        Args:
            folder: Where it is kept; it need not exist.
        """
        self._manifest = FileManifest(folder)

    def status(self, target: Path, source: Identity, fingerprint: str) -> ResultStatus:
        """Return the status of a file with regard to its source and settings."""
        name = str(target.absolute())
        status = self._manifest.status(name, source, fingerprint)
        is_other = status == "done" and not self._manifest.is_intact(name)
        return "foreign" if is_other else status

    def knows(self, target: Path) -> bool:
        """Return whether a file was ever a result."""
        return self._manifest.source_of(str(target.absolute())) is not None

    @contextmanager
    def recording(self, entry: Entry, target: Path, replaces: bool) -> Iterator[None]:
        """Record a result that the block publishes; see `Manifest.recording`.

        Where the record cannot be written, the result is published without it.
        """
        entry = replace(entry, dst=str(target.absolute()))
        if not replaces:
            self._append(entry)
        yield
        if replaces:
            self._append(entry)

    def _append(self, entry: Entry) -> None:
        with suppress(OutputError):
            self._manifest.append(entry)
        self._manifest.close()
