"""The planner: it decides, before any work, which files become which results (cli/README.md)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final

from varfix.engine.batch.item import Item, ItemSource, ItemTarget, VideoPart
from varfix.engine.batch.output_format import check_header
from varfix.engine.batch.output_names import Naming, name_apart, name_outputs
from varfix.engine.batch.output_state import OutputState, output_state
from varfix.engine.batch.plan import BatchRequest, Plan, Refusal, Skip
from varfix.engine.errors import DecodeUnsupportedError, NothingToDoError, PlanError, VarfixError
from varfix.engine.formats import (
    EXTENSIONS,
    UNSURE_EXTENSIONS,
    VIDEO_EXTENSIONS,
    Header,
    extension_of,
    format_of,
    is_video,
    result_suffix,
)
from varfix.engine.image.header import probe
from varfix.engine.settings.types import Settings
from varfix.engine.storage.addresses import display_address
from varfix.engine.storage.identity import ObjectVersion
from varfix.engine.storage.in_place import InPlaceStore
from varfix.engine.storage.manifest import Manifest
from varfix.engine.storage.open import store_of
from varfix.engine.storage.originals import Originals
from varfix.engine.storage.scan import ScanResult
from varfix.engine.storage.store import Place, Store
from varfix.engine.system.counts import counted, them
from varfix.engine.video.clip import Clip
from varfix.engine.video.probe import probe_for

_LOOKED_FOR: Final = ", ".join(
    sorted({name[1:] for name in (*EXTENSIONS, *VIDEO_EXTENSIONS, *UNSURE_EXTENSIONS)})
)


@dataclass(frozen=True)
class _Ends:
    """The two ends of a run, which may be folders or object stores."""

    source: Store
    target: Store

    @property
    def are_folders(self) -> bool:
        """Whether both are folders on this machine."""
        return self.source.folder is not None and self.target.folder is not None

    @property
    def replaceable(self) -> tuple[OutputState, ...]:
        """States of outputs that --overwrite replaces."""
        return ("stale",) if isinstance(self.target, InPlaceStore) else ("stale", "foreign")

    def source_of(self, name: str, version: ObjectVersion | None) -> ItemSource:
        """Return the source of an item, without opening it."""
        folder = self.source.folder
        return ItemSource(name, None if folder is None else folder / name, version=version)

    def target_of(self, name: str, overwrite: bool) -> ItemTarget:
        """Return the target of an item."""
        folder = self.target.folder
        return ItemTarget(name, None if folder is None else folder / name, replaces=overwrite)


def plan_batch(
    source: Place, destination: Place, request: BatchRequest, settings: Settings, fingerprint: str
) -> Plan:
    """Plan a run of a folder, or of the objects below an address.

    Raises:
        NothingToDoError: No image matches.
        PlanError: In place without `overwrite`, or in an object store; names that collide, images
            that the wanted format cannot hold.
        StoreError: A store does not answer or denies access.
    """
    if isinstance(source, Path) and not source.is_dir():
        raise NothingToDoError(f"{source}: no such folder")
    ends = _Ends(store_of(source), store_of(destination))
    in_place = _check_place(ends, request)
    manifest = ends.target.manifest()
    found = ends.source.find(request.filters, request.files, ends.target)
    if in_place:
        found = _without_duplicate_links(_without_results(found, manifest), ends.source.folder)
    if not found.sources:
        raise _nothing(display_address(source), found, request)
    items, skips, refusals = [], [], []
    for item in _all_items(ends, found, manifest, request, settings):
        state = output_state(item, manifest, fingerprint, settings)
        if request.overwrite and state in ends.replaceable:
            state = "missing"
        if state != "missing":
            skips.append(Skip(item.id, item.source.name, state))
        elif item.is_video and not ends.are_folders:
            refusals.append(Refusal(item, _not_on_disks()))
        else:
            items.append(_probed(item, settings))
    return Plan(
        source=ends.source,
        target=ends.target,
        fingerprint=fingerprint,
        items=tuple(items),
        skips=tuple(skips),
        refusals=tuple(refusals),
        found=found,
        manifest=manifest,
    )


def _check_place(ends: _Ends, request: BatchRequest) -> bool:
    """Return whether sources are replaced by their results (PlanError where that is forbidden)."""
    target = ends.target
    if target.relative_path_of(ends.source) != "":
        return False
    if target.folder is None:
        raise PlanError(
            f"{display_address(target)} is also the source: objects are not replaced",
            hint="name another address",
        )
    if isinstance(target, InPlaceStore):
        return True
    if Originals(target.folder).names():
        raise PlanError(
            f"{target.folder} has originals of an earlier run, which would be restored twice",
            hint=f"use 'varfix dir --in-place {target.folder}'",
        )
    if not request.overwrite:
        raise PlanError(
            f"{target.folder} is also the source: the images would be replaced",
            hint=f"use 'varfix dir --in-place {target.folder}', which keeps the originals, or name"
            " another folder",
        )
    return True


def plan_diagnosis(source: Place, request: BatchRequest) -> Plan:
    """Plan to judge the images of a folder, or of what lies below an address; write nothing.

    Raises:
        NothingToDoError: No image matches.
        StoreError: A store does not answer or denies access.
    """
    if isinstance(source, Path) and not source.is_dir():
        raise NothingToDoError(f"{source}: no such folder")
    store = store_of(source)
    found = store.find(request.filters, request.files, store)
    videos = [name for name in found.sources if found.is_video(name)]
    found.sources = [name for name in found.sources if name not in set(videos)]
    found.ignored += videos
    if not found.sources:
        raise _nothing(display_address(source), found, request)
    names = _sampled(found.sources, request.sample)
    items = (_unwritten(number, name, store, found) for number, name in enumerate(names))
    return Plan(store, store, "", tuple(items), found=found)


def _unwritten(number: int, name: str, store: Store, found: ScanResult) -> Item:
    """Return an item of which no result is written."""
    path = None if store.folder is None else store.folder / name
    source = ItemSource(name, path, version=found.versions.get(name))
    return Item(number, source, ItemTarget("", None), None if path is None else _header(path))


def image_item(source: Path, target: Path, overwrite: bool, settings: Settings) -> Item:
    """Return the item of a single image after all checks that need no model.

    Raises:
        NothingToDoError: There is no such file.
        PlanError: The source is a video, or the target exists or cannot hold the image.
    """
    if not source.is_file():
        reason = "not an ordinary file" if source.exists() else "no such file"
        hint = f"use 'varfix dir {source} {target}' for a folder" if source.is_dir() else ""
        raise NothingToDoError(f"{source}: {reason}", hint=hint)
    if is_video(source):
        raise PlanError(f"{source} is a video", hint="use 'varfix video'")
    if target.is_dir():
        raise PlanError(f"{target} is a folder", hint="name a file")
    if target.exists() and not target.is_file():
        # Replacing it would put a file in the place of a device or a pipe.
        raise PlanError(f"{target} is not an ordinary file", hint='"-" writes to stdout')
    if target.exists() and not overwrite:
        raise PlanError(f"{target} exists", hint="add --overwrite to replace it")
    ends = ItemSource.of_file(source), ItemTarget.of_file(target)
    item = Item(0, *ends, header=_header(source))
    check_header(source.name, item, settings)
    return item


def _without_results(found: ScanResult, manifest: Manifest) -> ScanResult:
    """Leave out the results that an earlier run made in place from other images."""
    return _without(
        found,
        {
            name
            for name in found.sources
            if manifest.source_of(name) not in (None, name) and manifest.is_intact(name)
        },
    )


def _without_duplicate_links(found: ScanResult, folder: Path | None) -> ScanResult:
    """Leave out links to images that are restored in place themselves, or by another link."""
    if folder is None:
        return found
    links = [name for name in found.sources if (folder / name).is_symlink()]
    if not links:
        return found
    others = {os.path.realpath(folder / name) for name in found.sources if name not in set(links)}
    duplicates = set()
    for name in links:
        real = os.path.realpath(folder / name)
        if real in others:
            duplicates.add(name)
        others.add(real)
    return _without(found, duplicates)


def _without(found: ScanResult, names: set[str]) -> ScanResult:
    sources = [name for name in found.sources if name not in names]
    return replace(found, sources=sources, ignored=found.ignored + sorted(names))


def _all_items(
    ends: _Ends,
    found: ScanResult,
    manifest: Manifest,
    request: BatchRequest,
    settings: Settings,
) -> Iterator[Item]:
    """Yield the items, without their headers. All are named, even if only a sample is chosen."""
    names = _output_names(ends, found, request, settings)
    versions = found.versions
    if request.files is not None:
        known = [src for src, dst in names.items() if manifest.source_of(dst) is not None]
        versions = versions | ends.source.versions(known)
    for number, src in enumerate(_sampled(list(names), request.sample)):
        video = VideoPart() if found.is_video(src) else None
        source = ends.source_of(src, versions.get(src))
        target = ends.target_of(names[src], request.overwrite)
        yield Item(number, source, target, video=video)


def _output_names(
    ends: _Ends, found: ScanResult, request: BatchRequest, settings: Settings
) -> dict[str, str]:
    """Return the names of results by names of sources."""
    sources = found.sources
    naming = Naming(
        request.name,
        request.preset,
        settings.model.name,
        lambda src: _extension(src, settings, found.is_video(src)),
    )
    inner = ends.target.relative_path_of(ends.source)
    owners = {}
    if inner is not None:
        owners = {f"{inner}/{src}" if inner else src: src for src in sources}
    if ends.target.folder is None:
        return name_outputs(sources, naming, owners)
    return name_apart(sources, naming, owners, ends.target.folder)


def _sampled(names: list[str], count: int | None) -> list[str]:
    """Return `count` names, evenly spaced."""
    if count is None or count >= len(names):
        return names
    return [names[(2 * i + 1) * len(names) // (2 * count)] for i in range(count)]


def _nothing(source: str, found: ScanResult, request: BatchRequest) -> NothingToDoError:
    if request.files is not None:
        return _nothing_listed(source, found)
    parts = [f"{source}: no images (looked for {_LOOKED_FOR})"]
    if found.denied:
        parts.append(f"{counted(len(found.denied), 'folder')} cannot be read")
    if found.ignored:
        listed = them(len(found.ignored))
        parts.append(f"{counted(len(found.ignored), 'file')} ignored, -v lists {listed}")
    return NothingToDoError("; ".join(parts), ignored=found.ignored)


def _nothing_listed(source: str, found: ScanResult) -> NothingToDoError:
    """Return the error about a list of files; the folder may well have images."""
    if not found.ignored:
        return NothingToDoError(
            "--files-from: the list is empty",
            hint=f"check what writes it, or leave out --files-from to take all of {source}",
        )
    ignored = counted(len(found.ignored), "name")
    return NothingToDoError(
        f"--files-from: the list names no image in {source} ({ignored} ignored)",
        hint="list files and not folders, check --include and --exclude, add -v to see the names",
        ignored=found.ignored,
    )


def _extension(src: str, settings: Settings, is_a_video: bool) -> str:
    wanted = settings.output.format
    suffix = PurePosixPath(src).suffix
    if is_a_video:
        return result_suffix(suffix, settings.video.codec)
    if wanted == "keep" or format_of(src) == format_of("x" + extension_of(wanted)):
        return suffix
    return extension_of(wanted)


def _not_on_disks() -> DecodeUnsupportedError:
    return DecodeUnsupportedError(
        "videos are restored only from folders to folders",
        hint="copy it to a disk and use 'varfix video', or leave out videos with --exclude",
    )


def _probed(item: Item, settings: Settings) -> Item:
    """Return the item with its header if it is readable; its turn in the run reports the reason.

    Raises:
        PlanError: The output format cannot hold the image.
    """
    path = item.source.path
    if path is None:
        return item
    if item.video is not None:
        return replace(item, video=replace(item.video, clip=_clip(path, settings)))
    probed = replace(item, header=_header(path))
    check_header(item.source.name, probed, settings)
    return probed


def _clip(path: Path, settings: Settings) -> Clip | None:
    try:
        return probe_for(path, settings)
    except (VarfixError, OSError):
        return None


def _header(path: Path) -> Header | None:
    try:
        return probe(path)
    except (VarfixError, OSError):
        return None
