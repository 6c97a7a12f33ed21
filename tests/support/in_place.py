"""Runs in place, and back."""

from dataclasses import dataclass, field
from pathlib import Path

from support.runs import SETTINGS, Setup

from varfix.engine.batch.plan import BatchRequest
from varfix.engine.batch.planner import plan_batch
from varfix.engine.storage.in_place import open_in_place
from varfix.engine.storage.originals import Originals
from varfix.engine.storage.undo import UndoRun


@dataclass
class InPlaceSetup(Setup):
    """A folder whose images are replaced."""

    backup: Path | None = None
    reports: list = field(default_factory=list)

    def plan(self, settings=SETTINGS, recipe="recipe", **request):
        store = open_in_place(self.source, self.backup)
        return plan_batch(store, store, BatchRequest(**request), settings, recipe)

    def undo(self, overwrite=False):
        self.reports.clear()
        run = UndoRun(
            Originals(self.source, self.backup),
            overwrite,
            lambda name, error: self.reports.append((name, error.message)),
        )
        run.run()
        return run.done, run.changed, run.failed

    def kept(self):
        """The originals that are kept, by name."""
        originals = Originals(self.source, self.backup)
        return {name: originals.path(name).read_bytes() for name in originals.names()}


def states(folder):
    """Content, mode and time of every file of a user, by name."""
    return {
        path.relative_to(folder).as_posix(): (
            path.read_bytes(),
            path.stat().st_mode,
            path.stat().st_mtime_ns,
        )
        for path in folder.rglob("*")
        if path.is_file() and ".varfix" not in path.relative_to(folder).parts
    }


def without_links(monkeypatch):
    """Let no file have a second name, as on file systems of memory cards."""

    def refuse(*arguments, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
