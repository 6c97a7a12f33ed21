"""Brings the originals of a folder back (cli/README.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from varfix.engine.errors import DiskFullError, OutputError, TakenError, VarfixError
from varfix.engine.storage.in_place import lock_originals
from varfix.engine.storage.originals import Originals


@dataclass
class UndoRun:
    """Brings originals back and counts them.

    Attributes:
        originals: The originals of the folder.
        overwrite: Also replace images that were changed after they were restored.
        report: Receives the name of an image whose original was not brought back, and the reason.
        is_stopping: Returns whether nothing new may be started.
        done: Number of originals brought back.
        changed: Number of images left alone because they were changed.
        failed: Number of originals that cannot be brought back.
    """

    originals: Originals
    overwrite: bool
    report: Callable[[str, VarfixError], None]
    is_stopping: Callable[[], bool] = lambda: False
    done: int = 0
    changed: int = 0
    failed: int = 0

    def run(self) -> None:
        """Bring all originals back.

        Raises:
            OutputLockedError: Another run writes to the folder.
            OutputError: The disk is full, or the folder cannot be written.
        """
        with lock_originals(self.originals):
            self.originals.reload()
            for name in self.originals.names():
                if self.is_stopping():
                    break
                self._bring_back(name)
            self.originals.clean_up()

    def _bring_back(self, name: str) -> None:
        if not self.overwrite and self.originals.is_changed(name):
            self.changed += 1
            self.report(name, changed_error())
            return
        try:
            self.originals.bring_back(name)
        except DiskFullError:
            raise
        except OutputError as error:
            self.failed += 1
            self.report(name, error)
        else:
            self.done += 1


def changed_error() -> VarfixError:
    """Return the error about an image that was changed after it was restored."""
    return TakenError(
        "was changed after varfix restored it and is left alone",
        hint="add --overwrite to replace it by its original",
    )


def changed_names(originals: Originals, names: Sequence[str]) -> list[str]:
    """Return which images were changed after they were restored."""
    return [name for name in names if originals.is_changed(name)]
