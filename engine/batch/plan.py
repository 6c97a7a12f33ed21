"""The plan of a run: which files become which results, and which need nothing (cli/README.md)."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from varfix.engine.batch.completeness import is_complete
from varfix.engine.batch.fingerprint import clip_fingerprint
from varfix.engine.batch.item import Item
from varfix.engine.errors import VarfixError
from varfix.engine.events import Warn
from varfix.engine.settings.types import Settings
from varfix.engine.storage.identity import Identity
from varfix.engine.storage.in_place import InPlaceStore
from varfix.engine.storage.manifest import Manifest
from varfix.engine.storage.open import store_of
from varfix.engine.storage.scan import Filters, ScanResult
from varfix.engine.storage.store import Store
from varfix.engine.system.display_names import printable

DEFAULT_NAME: Final = "{dir}{stem}{ext}"
OutputState = Literal["missing", "done", "stale", "foreign"]


@dataclass(frozen=True)
class BatchRequest:
    """What a user asked of a folder besides settings.

    Attributes:
        filters: which files count.
        files: names below the source (or paths to files in it) instead of a scan.
        name: template of output names; fields `{dir}` (with a final `/`), `{stem}`, `{ext}` (with
            its dot), `{preset}`, `{model}`.
        preset: for the template.
        overwrite: replace what exists.
        sample: only so many images, evenly spaced.
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


@dataclass
class Plan:
    """What will be done.

    Attributes:
        destination: folder of the results; None for a single file, and for a store.
        recipe: digest of model and settings.
        items: images to restore.
        skips: images that need nothing.
        found: what the scan saw besides.
        manifest: memory of the destination; None for a single file.
        source: where the images come from.
        target: where the results go.
        refused: what cannot be restored from where it is, and why.
    """

    destination: Path | None
    recipe: str
    items: list[Item] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    found: ScanResult = field(default_factory=ScanResult)
    manifest: Manifest | None = None
    source: Store = field(default_factory=lambda: store_of(Path()))
    target: Store = field(default_factory=lambda: store_of(Path()))
    refused: list[tuple[Item, VarfixError]] = field(default_factory=list)

    def item(self, number: int, src: str, dst: str, overwrite: bool) -> Item:
        """An image of this plan, with what is known of it without opening it."""
        source, target = _path(self.source, src), _path(self.target, dst)
        stamp = self.found.versions.get(src)
        return Item(number, src, dst, source, target, None, stamp=stamp, replaces=overwrite)

    def lock(self) -> AbstractContextManager[None]:
        """Hold the destination for this run alone, and put in order what earlier ones left there.

        Raises:
            OutputLockedError: Another run writes there.
            OutputError: It cannot be written.
        """
        return nullcontext() if self.manifest is None else _locked(self.target, self.manifest)

    @property
    def pixels(self) -> int:
        """Pixels to restore."""
        return sum(item.pixels for item in self.items)

    def skipped(self, reason: str) -> int:
        """How many are skipped for a reason."""
        return sum(skip.reason == reason for skip in self.skips)


@contextmanager
def _locked(target: Store, manifest: Manifest) -> Iterator[None]:
    with target.lock():
        manifest.prepare()
        yield


def _path(store: Store, name: str) -> Path:
    return _nowhere(PurePosixPath(name).suffix) if store.folder is None else store.folder / name


@functools.cache
def _nowhere(suffix: str) -> Path:
    """A path that cannot exist: by mistake used as one, it must not hit a file."""
    return Path(os.devnull, f"x{suffix}")


def state_of(plan: Plan, item: Item, settings: Settings) -> OutputState:
    """Return the state of the output of an item."""
    assert plan.manifest is not None
    identity: Identity | None = item.stamp
    if plan.source.folder is not None:
        with suppress(OSError):
            identity = item.source.stat()
    fingerprint = plan.recipe
    if item.is_clip:
        fingerprint = clip_fingerprint(fingerprint, settings, item.cut)
    status = plan.manifest.status(item.dst, identity, fingerprint)
    if status != "smaller":
        return status
    # Another program made it smaller, or the run that wrote it was interrupted.
    return "foreign" if is_complete(item.target) else "missing"


def ignored_lines(found: ScanResult) -> Iterator[str]:
    """What a verbose user is told of the files that were left out."""
    yield from (f"ignored {name}" for name in found.ignored)


def plan_warnings(plan: Plan) -> Iterator[Warn]:
    """What a user should know before the work starts."""
    for folder, reason in plan.found.denied.items():
        yield Warn(code="scan_denied", message=f"{printable(folder)}: {reason}, skipped")
    stale, foreign = plan.skipped("stale"), plan.skipped("foreign")
    if stale:
        text = f"{stale} outputs were made with other settings or from other sources"
        yield Warn(code="stale_outputs", message=f"{text}; use --overwrite to make them again")
    if isinstance(plan.target, InPlaceStore):
        yield from _in_place_warnings(plan.target, foreign)
    elif foreign:
        text = f"{foreign} files in the destination were not made by varfix and are left alone"
        yield Warn(code="foreign_outputs", message=f"{text}; use --overwrite to replace them")


def _in_place_warnings(target: InPlaceStore, changed: int) -> Iterator[Warn]:
    """Yield what a run in place leaves alone."""
    videos, final = len(target.left_alone.videos), len(target.left_alone.final)
    if changed:
        text = f"{changed} images were changed after varfix restored them and are left alone"
        yield Warn(code="foreign_outputs", message=text)
    if final:
        text = f"{final} images were restored earlier with other settings and are left alone"
        yield Warn(code="originals_gone", message=f"{text}: their originals are not kept")
    if videos:
        text = f"{videos} videos are left alone: only images are restored in place"
        yield Warn(code="videos_in_place", message=text)
