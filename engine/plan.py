"""Decides, before any work, which pictures become which files (design/cli.md, section 4)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from varfix.engine.clip import (
    CLIP_EXTENSIONS,
    NO_PIPE,
    WHOLE,
    Clip,
    Cut,
    Pipe,
    is_clip,
    result_suffix,
)
from varfix.engine.errors import (
    AlphaLostError,
    DecodeError,
    NothingToDoError,
    PlanError,
    VarfixError,
)
from varfix.engine.events import Warn
from varfix.engine.formats import EXTENSIONS, Header, check_output, extension_of, format_of
from varfix.engine.image import has_transparency, probe
from varfix.engine.manifest import Manifest, State, clip_recipe_of
from varfix.engine.naming import Naming, name_apart
from varfix.engine.scan import Filters, Found, scan
from varfix.engine.settings import Settings
from varfix.engine.source import readable, spoken
from varfix.engine.video_probe import probe_for

# Bytes per pixel while a picture is in flight: decoded file, float source, float result.
_BYTES_PER_PIXEL: Final = 36
_UNKNOWN_COST: Final = 1 << 20
_LOOKED_FOR: Final = ", ".join(
    sorted({name.lstrip(".") for name in (*EXTENSIONS, *CLIP_EXTENSIONS)})
)


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
        sample: only so many pictures, evenly spaced.
    """

    filters: Filters = field(default_factory=Filters)
    files: tuple[str, ...] | None = None
    name: str = "{dir}{stem}{ext}"
    preset: str = "auto"
    overwrite: bool = False
    sample: int | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to restore.

    Attributes:
        id: number in the run.
        src: name below the source, or the path as the user gave it.
        dst: name below the destination, or the path as the user gave it.
        source: file to read.
        target: file to write.
        header: size and format of a picture, None when they could not be read.
        clip: header of a clip, None for pictures and when it could not be read.
        cut: the part of a clip that is wanted.
        moving: it is a clip, whatever its name.
        pipe: its ends that are no files.
    """

    id: int
    src: str
    dst: str
    source: Path
    target: Path
    header: Header | None
    clip: Clip | None = None
    cut: Cut = WHOLE
    moving: bool = False
    pipe: Pipe = NO_PIPE

    @property
    def pixels(self) -> int:
        """Width times height, of all frames together; 0 when unknown."""
        if self.clip is not None:
            return self.clip.pixels_in(self.cut)
        return self.header.width * self.header.height if self.header else 0

    @property
    def is_clip(self) -> bool:
        """Whether it is a clip and no picture."""
        return self.moving or is_clip(self.source)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height, None when unknown."""
        if self.clip is not None:
            return self.clip.layout.width, self.clip.layout.height
        return (self.header.width, self.header.height) if self.header else None

    @property
    def frames(self) -> int | None:
        """Frames of a clip, as far as its header tells; None for pictures."""
        return None if self.clip is None else self.clip.frames_in(self.cut)

    @property
    def cost(self) -> int:
        """Bytes of memory while in flight; a clip's frames are bounded by its own queues."""
        return (memory_of(self.header) if self.header else 0) + _UNKNOWN_COST


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
        destination: folder of the results; None for a single file.
        recipe: digest of model and settings.
        items: pictures to restore.
        skips: pictures that need nothing.
        found: what the scan saw besides.
        manifest: memory of the destination; None for a single file.
    """

    destination: Path | None
    recipe: str
    items: list[Item] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    found: Found = field(default_factory=Found)
    manifest: Manifest | None = None

    @property
    def pixels(self) -> int:
        """Pixels to restore."""
        return sum(item.pixels for item in self.items)

    def skipped(self, reason: str) -> int:
        """How many are skipped for a reason."""
        return sum(skip.reason == reason for skip in self.skips)


def memory_of(header: Header) -> int:
    """Return the bytes that a picture takes while in flight."""
    return header.width * header.height * _BYTES_PER_PIXEL


def plan_batch(
    source: Path, destination: Path, request: BatchRequest, settings: Settings, recipe: str
) -> Plan:
    """Plan a folder.

    Raises:
        NothingToDoError: No picture matches.
        PlanError: In place without `overwrite`, names that collide, pictures that the wanted format
            cannot hold.
    """
    if not source.is_dir():
        raise NothingToDoError(f"{source}: no such folder")
    in_place = os.path.realpath(source) == os.path.realpath(destination)
    if in_place and not request.overwrite:
        raise PlanError(
            f"{destination} is also the source: the pictures would be replaced",
            hint="name another folder, or add --overwrite",
        )
    manifest = Manifest(destination)
    found = _find(source, None if in_place else destination, request)
    if in_place:
        _set_results_aside(found, manifest)
    if not found.pictures:
        raise NothingToDoError(_nothing(source, found))
    plan = Plan(destination, recipe, found=found, manifest=manifest)
    # All are named before some are chosen: a sample's names are those of the whole run.
    naming = Naming(
        request.name, request.preset, settings.model.name, lambda src: _extension(src, settings)
    )
    owners = _source_names(source, destination, found.pictures)
    named = name_apart(found.pictures, naming, owners, destination)
    for number, src in enumerate(_sampled(list(named), request.sample)):
        dst = named[src]
        item = Item(number, src, dst, source / src, destination / dst, None)
        _add(plan, item, request, settings)
    return plan


def plan_file(source: Path, target: Path, overwrite: bool, settings: Settings) -> Plan:
    """Plan a single picture.

    Raises:
        NothingToDoError: There is no such file.
        PlanError: The target exists, or cannot hold the picture.
    """
    if not source.is_file():
        reason = "not an ordinary file" if source.exists() else "no such file"
        raise NothingToDoError(f"{source}: {reason}")
    if target.is_dir():
        raise PlanError(f"{target} is a folder", hint="name a file")
    if target.exists() and not target.is_file():
        # Replacing it would put a file in the place of a device or a pipe.
        raise PlanError(f"{target} is not an ordinary file", hint='"-" writes to stdout')
    if target.exists() and not overwrite:
        raise PlanError(f"{target} exists", hint="add --overwrite to replace it")
    item = Item(0, os.fspath(source), os.fspath(target), source, target, _header(source))
    _check(source.name, item, settings)
    return Plan(None, "", [item])


def format_for(source: Path, target: Path, settings: Settings) -> str:
    """The format of a result: as wanted, else as the name tells where it differs, else `keep`.

    A file whose name is wrong about its content stays as it is.
    """
    named = format_of(target)
    if settings.output.format != "keep" or named is None or named == format_of(source):
        return settings.output.format
    return named


def _find(source: Path, destination: Path | None, request: BatchRequest) -> Found:
    if request.files is None:
        return scan(source, destination, request.filters)
    found = Found()
    barred = None if destination is None else Path(os.path.realpath(destination))
    for name in dict.fromkeys(_below(source, name) for name in request.files):
        path = source / name
        known = path.exists() and not path.is_file()  # folders come along in the lists of `find`
        if known or (barred and Path(os.path.realpath(path.parent)).is_relative_to(barred)):
            found.ignored.append(name)
        else:
            found.pictures.append(name)
    return found


def _set_results_aside(found: Found, manifest: Manifest) -> None:
    """Leave out what an earlier run made in place from other pictures."""
    results = {
        name
        for name in found.pictures
        if manifest.source_of(name) not in (None, name) and manifest.is_result(name)
    }
    found.pictures = [name for name in found.pictures if name not in results]
    found.ignored += sorted(results)


def _source_names(source: Path, destination: Path, names: Iterable[str]) -> dict[str, str]:
    """Sources that lie in the destination, by the names that they would have as results."""
    inner, outer = Path(os.path.realpath(source)), Path(os.path.realpath(destination))
    if not inner.is_relative_to(outer):
        return {}
    return {(inner.relative_to(outer) / name).as_posix(): name for name in names}


def _below(source: Path, name: str) -> str:
    """The name of a listed file below the source, whether listed from there or from here.

    What is not there, or no longer, is found out when its turn comes, and costs itself alone.
    """
    path = Path(name)
    root = Path(os.path.realpath(source))
    inside = []
    for candidate in (path, source / path):
        full = Path(os.path.realpath(candidate.parent)) / candidate.name
        if full.is_relative_to(root):
            inside.append(full.relative_to(root).as_posix())
            if os.path.lexists(candidate):
                return inside[-1]
    if inside:
        return inside[0]
    raise PlanError(f"{spoken(name)}: not a file in {spoken(os.fspath(source))}")


def _sampled(names: list[str], count: int | None) -> list[str]:
    """`count` names, evenly spaced."""
    if count is None or count >= len(names):
        return names
    return [names[(2 * i + 1) * len(names) // (2 * count)] for i in range(count)]


def _nothing(source: Path, found: Found) -> str:
    text = f"No images under {source} (looked for {_LOOKED_FOR})."
    if found.denied:
        text += f" {len(found.denied)} folders may not be read."
    return text + (f" {len(found.ignored)} files ignored; -v lists them." if found.ignored else "")


def _extension(src: str, settings: Settings) -> str:
    wanted = settings.output.format
    suffix = PurePosixPath(src).suffix
    if is_clip(PurePosixPath(src)):
        return result_suffix(suffix, settings.video.codec)
    if wanted == "keep" or format_of(src) == format_of("x" + extension_of(wanted)):
        return suffix
    return extension_of(wanted)


def _add(plan: Plan, item: Item, request: BatchRequest, settings: Settings) -> None:
    state = _state(plan, item, settings)
    if state in ("stale", "foreign") and request.overwrite:
        state = "missing"
    if state != "missing":
        plan.skips.append(Skip(item.id, item.src, state))
        return
    item = _opened(item, settings)
    _check(item.src, item, settings)
    plan.items.append(item)


def _state(plan: Plan, item: Item, settings: Settings) -> State:
    assert plan.manifest is not None
    try:
        facts = item.source.stat()
    except OSError:
        facts = None
    recipe = plan.recipe
    if item.is_clip:
        recipe = clip_recipe_of(recipe, settings, item.cut)
    return plan.manifest.state(item.dst, facts, recipe)


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


def ignored_lines(found: Found) -> Iterator[str]:
    """What a verbose user is told of the files that were left out."""
    yield from (f"ignored {name}" for name in found.ignored)


def plan_warnings(plan: Plan) -> Iterator[Warn]:
    """What a user should know before the work starts."""
    for folder in plan.found.denied:
        yield Warn(code="scan_denied", message=f"{readable(folder)}: permission denied, skipped")
    stale, foreign = plan.skipped("stale"), plan.skipped("foreign")
    if stale:
        text = f"{stale} outputs were made with other settings or from other sources"
        yield Warn(code="stale_outputs", message=f"{text}; use --overwrite to make them again")
    if foreign:
        text = f"{foreign} files in the destination were not made by varfix and are left alone"
        yield Warn(code="foreign_outputs", message=f"{text}; use --overwrite to replace them")
