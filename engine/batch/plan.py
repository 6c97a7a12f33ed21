"""Decides, before any work, which images become which files (cli/README.md)."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from varfix.engine.batch.completeness import is_complete
from varfix.engine.batch.fingerprint import clip_fingerprint
from varfix.engine.batch.item import Item as Item
from varfix.engine.batch.item import memory_of as memory_of
from varfix.engine.batch.output_names import Naming, name_apart, name_outputs
from varfix.engine.errors import (
    AlphaLostError,
    DecodeError,
    DecodeUnsupportedError,
    NothingToDoError,
    PlanError,
    VarfixError,
)
from varfix.engine.events import Warn
from varfix.engine.formats import (
    EXTENSIONS,
    VIDEO_EXTENSIONS,
    Header,
    check_output,
    extension_of,
    format_of,
    is_video,
    result_suffix,
)
from varfix.engine.image.header import probe
from varfix.engine.image.reader import has_transparency
from varfix.engine.settings.types import Settings
from varfix.engine.storage.addresses import display_address
from varfix.engine.storage.identity import FetchedFile, Identity
from varfix.engine.storage.manifest import Manifest
from varfix.engine.storage.open import store_of
from varfix.engine.storage.scan import Filters, ScanResult
from varfix.engine.storage.store import Place, Store
from varfix.engine.system.display_names import printable, single_line
from varfix.engine.video.probe import probe_for

_LOOKED_FOR: Final = ", ".join(
    sorted({name.lstrip(".") for name in (*EXTENSIONS, *VIDEO_EXTENSIONS)})
)


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
    name: str = "{dir}{stem}{ext}"
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

    def held(self) -> AbstractContextManager[None]:
        """Hold the destination for this run alone, and put in order what earlier ones left there.

        Raises:
            OutputLockedError: Another run writes there.
            OutputError: It cannot be written.
        """
        return nullcontext() if self.manifest is None else _held(self.target, self.manifest)

    @property
    def pixels(self) -> int:
        """Pixels to restore."""
        return sum(item.pixels for item in self.items)

    def skipped(self, reason: str) -> int:
        """How many are skipped for a reason."""
        return sum(skip.reason == reason for skip in self.skips)


@contextmanager
def _held(target: Store, manifest: Manifest) -> Iterator[None]:
    with target.lock():
        manifest.prepare()
        yield


def _path(store: Store, name: str) -> Path:
    return _nowhere(PurePosixPath(name).suffix) if store.folder is None else store.folder / name


@functools.cache
def _nowhere(suffix: str) -> Path:
    """A path that cannot exist: by mistake used as one, it must not hit a file."""
    return Path(os.devnull, f"x{suffix}")


def plan_batch(
    source: Place, destination: Place, request: BatchRequest, settings: Settings, recipe: str
) -> Plan:
    """Plan a folder, or what lies below an address.

    Raises:
        NothingToDoError: No image matches.
        PlanError: In place without `overwrite`, or in a store; names that collide, images that
            the wanted format cannot hold.
        StoreError: A store does not answer or lets nobody in.
    """
    if isinstance(source, Path) and not source.is_dir():
        raise NothingToDoError(f"{source}: no such folder")
    ends = store_of(source), store_of(destination)
    in_place = _check_place(*ends, request)
    manifest = ends[1].manifest()
    found = ends[0].find(request.filters, request.files, ends[1])
    if in_place:
        _set_results_aside(found, manifest)
        _set_links_aside(found, source)
    if not found.sources:
        raise NothingToDoError(_nothing(display_address(source), found))
    plan = Plan(ends[1].folder, recipe, found=found, manifest=manifest, source=ends[0])
    plan.target = ends[1]
    named = _named(plan, request, settings)
    if request.files is not None:
        known = [src for src, dst in named.items() if manifest.source_of(dst) is not None]
        found.versions |= plan.source.versions(known)
    for number, src in enumerate(_sampled(list(named), request.sample)):
        _add(plan, plan.item(number, src, named[src], request.overwrite), request, settings)
    return plan


def _check_place(source: Store, target: Store, request: BatchRequest) -> bool:
    """Whether sources are replaced by their results (PlanError where that is not to be)."""
    if target.relative_path_of(source) != "":
        return False
    if target.folder is None:
        raise PlanError(
            f"{display_address(target)} is also the source: objects are not replaced",
            hint="name another address",
        )
    if not request.overwrite:
        raise PlanError(
            f"{display_address(target)} is also the source: the images would be replaced",
            hint="name another folder, or add --overwrite",
        )
    return True


def plan_file(source: Path, target: Path, overwrite: bool, settings: Settings) -> Plan:
    """Plan a single image.

    Raises:
        NothingToDoError: There is no such file.
        PlanError: The source is a clip, or the target exists or cannot hold the image.
    """
    if not source.is_file():
        reason = "not an ordinary file" if source.exists() else "no such file"
        hint = f"use 'varfix dir {source} {target}' for a folder" if source.is_dir() else ""
        raise NothingToDoError(f"{source}: {reason}", hint=hint)
    if is_video(source):
        raise PlanError(f"{source} is a clip", hint="use 'varfix video' for it")
    if target.is_dir():
        raise PlanError(f"{target} is a folder", hint="name a file")
    if target.exists() and not target.is_file():
        # Replacing it would put a file in the place of a device or a pipe.
        raise PlanError(f"{target} is not an ordinary file", hint='"-" writes to stdout')
    if target.exists() and not overwrite:
        raise PlanError(f"{target} exists", hint="add --overwrite to replace it")
    item = Item(0, os.fspath(source), os.fspath(target), source, target, _header(source))
    _check(source.name, item, settings)
    return Plan(None, "", [item], source=store_of(source.parent), target=store_of(target.parent))


def format_for(source: Path, target: Path, settings: Settings) -> str:
    """The format of a result: as wanted, else as the name tells where it differs, else `keep`.

    A file whose name is wrong about its content stays as it is.
    """
    named = format_of(target)
    if settings.output.format != "keep" or named is None or named == format_of(source):
        return settings.output.format
    return named


def _set_results_aside(found: ScanResult, manifest: Manifest) -> None:
    """Leave out what an earlier run made in place from other images."""
    results = {
        name
        for name in found.sources
        if manifest.source_of(name) not in (None, name) and manifest.is_intact(name)
    }
    found.sources = [name for name in found.sources if name not in results]
    found.ignored += sorted(results)


def _set_links_aside(found: ScanResult, source: Place) -> None:
    """Leave out links to images that are restored in place themselves: once is enough."""
    if not isinstance(source, Path):
        return
    links = [name for name in found.sources if (source / name).is_symlink()]
    if not links:
        return
    others = {os.path.realpath(source / name) for name in found.sources if name not in links}
    twice = {name for name in links if os.path.realpath(source / name) in others}
    found.sources = [name for name in found.sources if name not in twice]
    found.ignored += sorted(twice)


def _named(plan: Plan, request: BatchRequest, settings: Settings) -> dict[str, str]:
    """Names of results by names of sources. All are named, even if only a sample is chosen."""
    sources = plan.found.sources
    naming = Naming(
        request.name, request.preset, settings.model.name, lambda src: _extension(src, settings)
    )
    inner = plan.target.relative_path_of(plan.source)
    owners = {}
    if inner is not None:
        owners = {f"{inner}/{src}" if inner else src: src for src in sources}
    if plan.target.folder is None:
        return name_outputs(sources, naming, owners)
    return name_apart(sources, naming, owners, plan.target.folder)


def _sampled(names: list[str], count: int | None) -> list[str]:
    """`count` names, evenly spaced."""
    if count is None or count >= len(names):
        return names
    return [names[(2 * i + 1) * len(names) // (2 * count)] for i in range(count)]


def _nothing(source: str, found: ScanResult) -> str:
    text = f"No images under {source} (looked for {_LOOKED_FOR})."
    if found.denied:
        text += f" {len(found.denied)} folders cannot be read."
    return text + (f" {len(found.ignored)} files ignored; -v lists them." if found.ignored else "")


def _extension(src: str, settings: Settings) -> str:
    wanted = settings.output.format
    suffix = PurePosixPath(src).suffix
    if is_video(PurePosixPath(src)):
        return result_suffix(suffix, settings.video.codec)
    if wanted == "keep" or format_of(src) == format_of("x" + extension_of(wanted)):
        return suffix
    return extension_of(wanted)


def _add(plan: Plan, item: Item, request: BatchRequest, settings: Settings) -> None:
    state = state_of(plan, item, settings)
    if state in ("stale", "foreign") and request.overwrite:
        state = "missing"
    if state != "missing":
        plan.skips.append(Skip(item.id, item.src, state))
        return
    if item.is_clip and (plan.source.folder is None or plan.target.folder is None):
        plan.refused.append((item, _unmoved()))
        return
    if plan.source.folder is not None:
        item = _opened(item, settings)
        _check(item.src, item, settings)
    plan.items.append(item)


def _unmoved() -> DecodeUnsupportedError:
    return DecodeUnsupportedError(
        "clips are restored from disks to disks only",
        hint="copy it to a disk and use 'varfix video', or leave clips out with --exclude",
    )


def check_fetched(item: Item, fetched: FetchedFile, settings: Settings) -> None:
    """Refuse an image that its format cannot hold, where the plan has not seen its header.

    Raises:
        PlanError: As `plan_batch`.
    """
    if item.header is not None:
        return
    wanted = format_for(item.source, item.target, settings)
    try:
        check_output(single_line(item.src), fetched.header, wanted, settings.output.flatten)
    except AlphaLostError:
        if has_transparency(fetched.data, max_pixels=settings.limits.max_pixels):
            raise


def state_of(plan: Plan, item: Item, settings: Settings) -> OutputState:
    """What the output of an item is."""
    assert plan.manifest is not None
    facts: Identity | None = item.stamp
    if plan.source.folder is not None:
        with suppress(OSError):
            facts = item.source.stat()
    fingerprint = plan.recipe
    if item.is_clip:
        fingerprint = clip_fingerprint(fingerprint, settings, item.cut)
    status = plan.manifest.status(item.dst, facts, fingerprint)
    if status != "smaller":
        return status
    # Another program made it smaller, or the run that wrote it was interrupted.
    return "foreign" if is_complete(item.target) else "missing"


def _opened(item: Item, settings: Settings) -> Item:
    """The item with its header, or without: what is wrong with it is told when its turn comes."""
    if not item.is_clip:
        return replace(item, header=_header(item.source))
    try:
        return replace(item, clip=probe_for(item.source, settings))
    except (VarfixError, OSError):
        return item


def _header(path: Path) -> Header | None:
    """The header, or None: what is wrong with the file is told when its turn comes."""
    try:
        return probe(path)
    except (VarfixError, OSError):
        return None


def _check(name: str, item: Item, settings: Settings) -> None:
    if item.header is None:
        return
    wanted = format_for(item.source, item.target, settings)
    try:
        check_output(name, item.header, wanted, settings.output.flatten)
    except AlphaLostError:
        # An alpha channel that is opaque everywhere is no loss; only now is it worth looking.
        if _transparent(item.source, settings):
            raise


def _transparent(path: Path, settings: Settings) -> bool:
    try:
        return has_transparency(path.read_bytes(), max_pixels=settings.limits.max_pixels)
    except (DecodeError, OSError):
        return False


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
    if foreign:
        text = f"{foreign} files in the destination were not made by varfix and are left alone"
        yield Warn(code="foreign_outputs", message=f"{text}; use --overwrite to replace them")
