"""The planner: it decides, before any work, which files become which results (cli/README.md)."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

from varfix.engine.batch.item import Item
from varfix.engine.batch.output_format import check_header
from varfix.engine.batch.output_names import Naming, name_apart, name_outputs
from varfix.engine.batch.plan import BatchRequest, Plan, Skip, state_of
from varfix.engine.errors import DecodeUnsupportedError, NothingToDoError, PlanError, VarfixError
from varfix.engine.formats import (
    EXTENSIONS,
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
from varfix.engine.storage.in_place import InPlaceStore
from varfix.engine.storage.manifest import Manifest
from varfix.engine.storage.open import store_of
from varfix.engine.storage.originals import Originals
from varfix.engine.storage.scan import ScanResult
from varfix.engine.storage.store import Place, Store
from varfix.engine.video.probe import probe_for

_LOOKED_FOR: Final = ", ".join(
    sorted({name.lstrip(".") for name in (*EXTENSIONS, *VIDEO_EXTENSIONS)})
)


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
        _set_links_aside(found, ends[0].folder)
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
    check_header(source.name, item, settings)
    return Plan(None, "", [item], source=store_of(source.parent), target=store_of(target.parent))


def _set_results_aside(found: ScanResult, manifest: Manifest) -> None:
    """Leave out what an earlier run made in place from other images."""
    results = {
        name
        for name in found.sources
        if manifest.source_of(name) not in (None, name) and manifest.is_intact(name)
    }
    found.sources = [name for name in found.sources if name not in results]
    found.ignored += sorted(results)


def _set_links_aside(found: ScanResult, folder: Path | None) -> None:
    """Leave out links to images that are restored in place themselves, or by another link."""
    if folder is None:
        return
    links = [name for name in found.sources if (folder / name).is_symlink()]
    if not links:
        return
    others = {os.path.realpath(folder / name) for name in found.sources if name not in set(links)}
    twice = set()
    for name in links:
        real = os.path.realpath(folder / name)
        if real in others:
            twice.add(name)
        others.add(real)
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
    replaceable = ("stale",) if isinstance(plan.target, InPlaceStore) else ("stale", "foreign")
    if state in replaceable and request.overwrite:
        state = "missing"
    if state != "missing":
        plan.skips.append(Skip(item.id, item.src, state))
        return
    if item.is_clip and (plan.source.folder is None or plan.target.folder is None):
        plan.refused.append((item, _unmoved()))
        return
    if plan.source.folder is not None:
        item = _opened(item, settings)
        check_header(item.src, item, settings)
    plan.items.append(item)


def _unmoved() -> DecodeUnsupportedError:
    return DecodeUnsupportedError(
        "clips are restored from disks to disks only",
        hint="copy it to a disk and use 'varfix video', or leave clips out with --exclude",
    )


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
