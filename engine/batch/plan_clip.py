"""The planner of a single video: header, name and container of the result, part to restore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from msgspec.structs import replace

from varfix.engine.batch.fingerprint import item_fingerprint
from varfix.engine.batch.item import Item, ItemSource, ItemTarget, VideoPart
from varfix.engine.batch.plan import Plan, plan_single
from varfix.engine.errors import ItemError, NothingToDoError, PlanError
from varfix.engine.formats import CONTAINERS, result_suffix
from varfix.engine.settings.types import Settings
from varfix.engine.storage.result_history import ResultHistory
from varfix.engine.system.long_names import fitted_name
from varfix.engine.video.clip import Clip, FrameStream
from varfix.engine.video.containers import open_container
from varfix.engine.video.encode.encoders import encoder_for
from varfix.engine.video.mux.selection import COPY, NONE, missing_specifiers
from varfix.engine.video.mux.streams import container_traits, describe
from varfix.engine.video.mux.trial import try_muxing
from varfix.engine.video.probe import probe_for
from varfix.engine.video.sources.numbered_images import identity_of, is_pattern, numbered_images
from varfix.engine.video.y4m import Y4mReader

# Part of the name of a result that is next to its source.
_MARK: Final = ".varfix"
_COMPARISON: Final = ".preview"
# Containers to write if the usual one cannot hold the result.
_CONTAINERS: Final = (".mkv", ".mp4", ".mov")
# Changes of the settings with which a container may hold it, and how to type them.
_CHANGES: Final[tuple[tuple[dict[str, Any], str], ...]] = (
    ({"codec": "av1", "crf": None}, "--codec av1"),
    ({"codec": "h264", "crf": None}, "--codec h264"),
    ({"streams": "none"}, "--streams none to leave out what is not images"),
)


@dataclass(frozen=True)
class TargetChoice:
    """A file to write, and a note if its name is not the usual one."""

    path: Path
    note: str = ""


def probe_source(source: Path, settings: Settings) -> Clip:
    """Read the header of a video that the user named; errors name the file.

    Raises:
        NothingToDoError: There is no such file.
        ItemError: It cannot be read or restored.
    """
    check_source(source)
    with _labeled(str(source)):
        return probe_for(source, settings)


def probe_pipe(stream: BinaryIO, settings: Settings) -> FrameStream:
    """Read the header of a y4m stream from stdin (ItemError if it is damaged)."""
    with _labeled("stdin"):
        return Y4mReader(stream, interlaced=settings.video.interlaced)


@contextmanager
def _labeled(label: str) -> Iterator[None]:
    """Prefix errors of the block with the name of the video."""
    try:
        yield
    except ItemError as error:
        raise error.reworded(message=f"{label}: {error.message}") from error


def check_source(source: Path) -> None:
    """Check that a source is a file or numbered images.

    Raises:
        NothingToDoError: It is neither.
    """
    if is_pattern(source):
        try:
            numbered_images(source)
        except ItemError as error:
            raise NothingToDoError(f"{source}: {error.message}") from error
    elif not source.is_file():
        reason = "not an ordinary file" if source.exists() else "no such file"
        raise NothingToDoError(f"{source}: {reason}")


def choose_target(
    source: Path, target: Path | None, clip: Clip | None, settings: Settings
) -> TargetChoice:
    """Choose the file to write: the requested one, else one next to the source.

    Args:
        source: The video.
        target: File or folder that the user named; a folder receives a file named as the source.
        clip: Header of the source; None if it could not be read.
        settings: Encoder and streams.

    Raises:
        PlanError: The requested container cannot hold the video, or there is no such encoder.
        DeviceUnavailableError: The requested hardware encoder does not work.
    """
    if clip is not None:
        check_streams(source, settings)
    codec = settings.video.codec if clip is None else encoder_for(clip, settings.video).name
    suffix = source.suffix.lower()
    wanted = result_suffix(suffix, codec, fallback=".mp4")
    # Numbered images are named as their folder.
    named = source.absolute().parent if is_pattern(source) else source
    stem = named.name if is_pattern(source) else named.stem
    mark = _COMPARISON if settings.video.compare else _MARK
    if target is None:
        target = named.with_name(fitted_name(stem, f"{mark}{wanted}"))
    elif target.is_dir():
        target = target / f"{stem}{wanted}"
    else:
        check_holds(source, target, clip, settings)
        return TargetChoice(target)
    lost = _refused_streams(source, target, clip, settings)
    if not lost:
        usual = f"{wanted[1:]} is the usual container of {codec}"
        why = usual if suffix in CONTAINERS else f"varfix does not write {suffix[1:]}"
        return TargetChoice(target, "" if wanted == suffix else f"writing {target.name}: {why}")
    other = _container_for(source, target, clip, settings)
    if other is None:
        raise _cannot_hold(source, target, clip, settings)
    why = f"{target.suffix[1:]} cannot hold {lost[0]}"
    return TargetChoice(other, f"writing {other.name}: {why}")


def clip_item(
    source: Path,
    target: Path,
    part: VideoPart,
    overwrite: bool,
    history: ResultHistory | None = None,
) -> Item:
    """Return the item of a single video after all checks that need no model.

    Args:
        source: The file.
        target: File to write.
        part: The part to restore; without a header, the run reports why it is unreadable.
        overwrite: Replace an existing file.
        history: Earlier results; `plan_clip` decides about a target among them.

    Raises:
        PlanError: The target exists, or there is nothing in the part.
    """
    _check_part(part)
    is_known = history is not None and history.knows(target)
    _check_target(source, target, overwrite or is_known)
    return Item(0, ItemSource.of_file(source), ItemTarget.of_file(target), video=part)


def plan_clip(
    item: Item, fingerprint: str, settings: Settings, history: ResultHistory | None
) -> Plan:
    """Return the plan of a single video, without work if its result is finished.

    Args:
        item: From `clip_item` or `pipe_item`.
        fingerprint: Fingerprint of model and settings.
        settings: The settings of the run.
        history: Earlier results; None restores the video in any case.

    Raises:
        PlanError: The target is another result, or none of varfix.
    """
    source, target = item.source.path, item.target.path
    if history is None or source is None or target is None or not target.exists():
        return plan_single(item, fingerprint)
    expected = item_fingerprint(item, fingerprint, settings)
    status = history.status(target, identity_of(source), expected)
    if status != "done":
        why = " and was made with other settings or from another source"
        raise _exists(target, why if status == "stale" else "")
    return plan_single(item, fingerprint, is_done=True)


def pipe_item(src: str, dst: str, part: VideoPart, overwrite: bool, settings: Settings) -> Item:
    """Return the item of a video that comes from or goes to a pipe, after all checks.

    Args:
        src: Source, as the user named it.
        dst: Target, as the user named it.
        part: The part to restore, with the ends that are pipes.
        overwrite: Replace an existing file.
        settings: Encoder.

    Raises:
        PlanError: The target exists or cannot hold the frames, or there is nothing in the part.
    """
    _check_part(part)
    if part.pipe.target is None:
        check_holds(None, Path(dst), part.clip, settings)
        _check_target(None, Path(dst), overwrite)
    source, target = ItemSource("stdin", None, "stdin"), ItemTarget("stdout", None, "stdout")
    if part.pipe.source is None:
        source = ItemSource(Path(src).name, Path(src), src)
    if part.pipe.target is None:
        target = ItemTarget(Path(dst).name, Path(dst), dst)
    return Item(0, source, target, video=part)


def check_holds(source: Path | None, target: Path, clip: Clip | None, settings: Settings) -> None:
    """Check that a container can hold the result.

    Raises:
        PlanError: It cannot.
    """
    if _refused_streams(source, target, clip, settings):
        raise _cannot_hold(source, target, clip, settings)


def _container_for(
    source: Path | None, target: Path, clip: Clip | None, settings: Settings
) -> Path | None:
    """Return a file with another container, which can hold the result; None if there is none."""
    others = (target.with_suffix(suffix) for suffix in _CONTAINERS)
    return next(
        (other for other in others if not _refused_streams(source, other, clip, settings)), None
    )


def _cannot_hold(
    source: Path | None, target: Path, clip: Clip | None, settings: Settings
) -> PlanError:
    """Return the error, with the changes that help for this video."""
    ways = []
    other = _container_for(source, target, clip, settings)
    if other is not None:
        ways.append(f"name a file that ends in {other.suffix}")
    for change, text in _CHANGES:
        changed = replace(settings, video=replace(settings.video, **change))
        if not _refused_streams(source, target, clip, changed):
            ways.append(f"add {text}")
    kind, lost = target.suffix.lower()[1:], _refused_streams(source, target, clip, settings)
    return PlanError(f"{kind} cannot hold {', '.join(lost)}", hint=", or ".join(ways))


def _refused_streams(
    source: Path | None, target: Path, clip: Clip | None, settings: Settings
) -> list[str]:
    """Return the streams of the result that a container cannot hold."""
    if clip is None:
        container_traits(target, "")
        return []
    return list(try_muxing(clip, source, target, settings.video).refused)


def check_streams(source: Path, settings: Settings) -> None:
    """Check that the source has the streams that the settings select.

    Raises:
        PlanError: It has not.
    """
    if settings.video.streams in (COPY, NONE):
        return
    with open_container(source) as container:
        missing = missing_specifiers(settings.video.streams, container.streams)
        known = ", ".join(describe(stream) for stream in container.streams)
    if missing:
        raise PlanError(f"--streams {missing[0]}: no such stream", hint=f"there are {known}")


def _check_part(part: VideoPart) -> None:
    begin, end = part.time_range.begin or 0, part.time_range.end
    if end is not None and end <= begin:
        raise PlanError(f"--to {float(end):g} is not after --from {float(begin):g}")
    seconds = part.clip.seconds if part.clip else None
    if seconds and begin >= seconds:
        raise PlanError(f"--from {float(begin):g}: the video is only {float(seconds):g} s long")


def _check_target(source: Path | None, target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise PlanError(f"{target} is a folder", hint="name a file")
    if target.exists() and not target.is_file():
        raise PlanError(f"{target} is not an ordinary file", hint='"-" writes to stdout')
    if source is not None and source.exists() and target.exists() and target.samefile(source):
        raise PlanError(f"{target} is the source itself", hint="name another file")
    if target.exists() and not overwrite:
        raise _exists(target)


def _exists(target: Path, why: str = "") -> PlanError:
    return PlanError(f"{target} exists{why}", hint="add --overwrite to replace it")
