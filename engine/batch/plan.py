"""The plan of a run: which files become which results, and which need nothing (cli/README.md).

A plan is complete when it is made, and does not change. `planner` and `plan_clip` decide; this
module holds the records.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from varfix.engine.batch.item import Item
from varfix.engine.errors import VarfixError
from varfix.engine.events import Warn
from varfix.engine.storage.in_place import InPlaceStore
from varfix.engine.storage.manifest import Manifest
from varfix.engine.storage.open import store_of
from varfix.engine.storage.scan import Filters, ScanResult
from varfix.engine.storage.store import Store
from varfix.engine.system.counts import counted, them
from varfix.engine.system.display_names import printable

DEFAULT_NAME: Final = "{dir}{stem}{ext}"


@dataclass(frozen=True)
class BatchRequest:
    """The options of a run of a folder, besides the settings.

    Attributes:
        filters: Which files count.
        files: Names below the source (or paths to files in it) instead of a scan.
        name: Template of output names; fields `{dir}` (with a final `/`), `{stem}`, `{ext}` (with
            its dot), `{preset}`, `{model}`.
        preset: For the template.
        overwrite: Replace existing results.
        sample: Number of images, evenly spaced; None = all.
    """

    filters: Filters = field(default_factory=Filters)
    files: tuple[str, ...] | None = None
    name: str = DEFAULT_NAME
    preset: str = "auto"
    overwrite: bool = False
    sample: int | None = None


@dataclass(frozen=True, slots=True)
class Skip:
    """An output that stays as it is."""

    id: int
    src: str
    reason: Literal["done", "stale", "foreign"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An item that cannot be restored from its place, and the error that says why."""

    item: Item
    error: VarfixError


@dataclass(frozen=True)
class Plan:
    """The work of a run.

    Attributes:
        source: Where the sources are.
        target: Where the results go.
        fingerprint: Fingerprint of model and settings.
        items: Images and videos to restore.
        skips: Images and videos that need nothing.
        refusals: Images and videos that cannot be restored from their place.
        found: The result of the scan.
        manifest: Record of the results in the destination; None for a single file.
    """

    source: Store
    target: Store
    fingerprint: str
    items: tuple[Item, ...]
    skips: tuple[Skip, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    found: ScanResult = field(default_factory=ScanResult)
    manifest: Manifest | None = None

    def lock(self) -> AbstractContextManager[None]:
        """Hold the destination for this run alone, and clean up what earlier runs left there.

        Raises:
            OutputLockedError: Another run writes there.
            OutputError: It cannot be written.
        """
        return nullcontext() if self.manifest is None else _locked(self.target, self.manifest)

    @property
    def pixels(self) -> int:
        """Number of pixels to restore."""
        return sum(item.pixels for item in self.items)

    def skipped(self, reason: str) -> int:
        """Return the number of items that are skipped for a reason."""
        return sum(skip.reason == reason for skip in self.skips)


def plan_single(item: Item, fingerprint: str, *, is_done: bool = False) -> Plan:
    """Return the plan of a run of one file or pipe, which the user named.

    Args:
        item: The checked item.
        fingerprint: Fingerprint of model and settings.
        is_done: Its result is up to date.
    """
    paths = item.source.path, item.target.path
    source, target = (store_of(Path() if path is None else path.parent) for path in paths)
    if is_done:
        skip = Skip(item.id, item.source.event_name, "done")
        return Plan(source, target, fingerprint, (), (skip,))
    return Plan(source, target, fingerprint, (item,))


@contextmanager
def _locked(target: Store, manifest: Manifest) -> Iterator[None]:
    with target.lock():
        manifest.prepare()
        yield


def ignored_lines(found: ScanResult) -> Iterator[str]:
    """Yield a line for each file that the scan left out."""
    yield from (f"ignored {name}" for name in found.ignored)


def plan_warnings(plan: Plan) -> Iterator[Warn]:
    """Yield the warnings about a plan before the work starts."""
    for folder, reason in plan.found.denied.items():
        yield Warn(code="scan_denied", message=f"{printable(folder)}: {reason}, skipped")
    stale, foreign = plan.skipped("stale"), plan.skipped("foreign")
    if stale:
        outputs = counted(stale, "output was", "outputs were")
        text = f"{outputs} made with other settings or from other sources"
        hint = f"use --overwrite to make {them(stale)} again"
        yield Warn(code="stale_outputs", message=f"{text}; {hint}")
    if isinstance(plan.target, InPlaceStore):
        yield from _in_place_warnings(plan.target, foreign)
    elif foreign:
        files = f"{counted(foreign, 'file')} in the destination"
        text = f"{files} {_left_alone(foreign, 'not made by varfix')}"
        hint = f"use --overwrite to replace {them(foreign)}"
        yield Warn(code="foreign_outputs", message=f"{text}; {hint}")


def _in_place_warnings(target: InPlaceStore, changed: int) -> Iterator[Warn]:
    """Yield what a run in place leaves alone."""
    videos, final = len(target.left_alone.videos), len(target.left_alone.final)
    if changed:
        done = f"changed after varfix restored {them(changed)}"
        text = f"{counted(changed, 'image')} {_left_alone(changed, done)}"
        yield Warn(code="foreign_outputs", message=text)
    if final:
        done = "restored earlier with other settings"
        text = f"{counted(final, 'image')} {_left_alone(final, done)}"
        gone = "its original is" if final == 1 else "their originals are"
        yield Warn(code="originals_gone", message=f"{text}: {gone} not kept")
    if videos:
        text = f"{counted(videos, 'video is', 'videos are')} left alone"
        message = f"{text}: only images are restored in place"
        yield Warn(code="videos_in_place", message=message)


def _left_alone(count: int, done: str) -> str:
    """Return the end of a sentence about files to which something was done."""
    was, are = ("was", "is") if count == 1 else ("were", "are")
    return f"{was} {done} and {are} left alone"
