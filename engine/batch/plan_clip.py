"""Decides what a single clip becomes: its file's name and container, and which part of it."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from varfix.engine.batch.fingerprint import clip_fingerprint
from varfix.engine.batch.item import Item
from varfix.engine.batch.plan import Plan, Skip
from varfix.engine.errors import NothingToDoError, PlanError
from varfix.engine.formats import CONTAINERS, result_suffix
from varfix.engine.settings.types import Settings
from varfix.engine.storage.open import store_of
from varfix.engine.storage.result_history import ResultHistory
from varfix.engine.system.long_names import fitted_name
from varfix.engine.video.clip import Clip, Pipe, TimeRange
from varfix.engine.video.encode.encoders import encoder_for
from varfix.engine.video.mux.streams import container_traits
from varfix.engine.video.mux.trial import try_muxing

# Part of the name of a result that lies beside its source.
_MARK: Final = ".varfix"
# Containers to write where the expected one does not hold the result.
_CONTAINERS: Final = (".mkv", ".mp4", ".mov")
# Changes of the settings with which a container may hold it after all, and what to type.
_CHANGES: Final[tuple[tuple[dict[str, Any], str], ...]] = (
    ({"codec": "av1", "crf": None}, "--codec av1"),
    ({"codec": "h264", "crf": None}, "--codec h264"),
    ({"streams": "none"}, "--set video.streams=none to leave out what is not images"),
)


@dataclass(frozen=True)
class Chosen:
    """A file to write, and why it is called so where that is not what one expects."""

    path: Path
    note: str = ""


def check_source(source: Path) -> None:
    """Refuse what is no file (NothingToDoError)."""
    if not source.is_file():
        reason = "not an ordinary file" if source.exists() else "no such file"
        raise NothingToDoError(f"{source}: {reason}")


def choose_target(
    source: Path, target: Path | None, clip: Clip | None, settings: Settings
) -> Chosen:
    """Choose the file to write: as asked for, else beside the source by a name made from its own.

    Args:
        source: the clip.
        target: as asked for; a folder takes the result under the source's name.
        clip: header of the source, None when it could not be read.
        settings: encoder and streams.

    Raises:
        PlanError: The container asked for cannot hold the clip, or there is no such encoder.
        DeviceUnavailableError: The hardware encoder asked for does not work.
    """
    codec = settings.video.codec if clip is None else encoder_for(clip, settings.video).name
    suffix = source.suffix.lower()
    wanted = result_suffix(suffix, codec, fallback=".mp4")
    if target is None:
        target = source.with_name(fitted_name(source.stem, f"{_MARK}{wanted}"))
    elif target.is_dir():
        target = target / f"{source.stem}{wanted}"
    else:
        check_holds(source, target, clip, settings)
        return Chosen(target)
    lost = _not_held(source, target, clip, settings)
    if not lost:
        usual = f"{wanted[1:]} is the usual container of {codec}"
        why = usual if suffix in CONTAINERS else f"varfix does not write {suffix[1:]}"
        return Chosen(target, "" if wanted == suffix else f"Writing {target.name}: {why}.")
    other = _container_for(source, target, clip, settings)
    if other is None:
        raise _unheld(source, target, clip, settings)
    why = f"{target.suffix[1:]} cannot hold {lost[0]}"
    return Chosen(other, f"Writing {other.name}: {why}.")


def plan_clip(
    source: Path,
    target: Path,
    clip: Clip | None,
    cut: TimeRange,
    overwrite: bool,
    history: ResultHistory | None = None,
) -> Plan:
    """Plan a single clip; the plan has no recipe yet.

    Args:
        source: the file.
        target: file to write.
        clip: its header; None when it could not be read, which is told when its turn comes.
        cut: the part that is wanted.
        overwrite: replace what exists.
        history: earlier results; `without_finished` decides about a target among them.

    Raises:
        PlanError: The target exists, or there is nothing in the part.
    """
    if clip is not None:
        _check_cut(clip, cut)
    is_known = history is not None and history.knows(target)
    _check_target(source, target, overwrite or is_known)
    names = os.fspath(source), os.fspath(target)
    item = Item(0, *names, source, target, None, clip, cut, moving=True)
    return Plan(None, "", [item], source=store_of(source.parent), target=store_of(target.parent))


def without_finished(plan: Plan, settings: Settings, history: ResultHistory) -> Plan:
    """Return the plan of a single clip, without work if its result is finished.

    Args:
        plan: With its recipe; targets are not to be replaced.
        settings: The settings of the run.
        history: Earlier results.

    Raises:
        PlanError: The target is another result, or none of varfix.
    """
    (item,) = plan.items
    if not item.target.exists():
        return plan
    fingerprint = clip_fingerprint(plan.recipe, settings, item.cut)
    status = history.status(item.target, item.source.stat(), fingerprint)
    if status != "done":
        why = " and was made with other settings or from another source"
        raise _existing(item.target, why if status == "stale" else "")
    return dataclasses.replace(plan, items=[], skips=[Skip(item.id, item.src, "done")])


def plan_pipe(
    ends: tuple[str, str],
    clip: Clip,
    cut: TimeRange,
    pipe: Pipe,
    settings: Settings,
    *,
    overwrite: bool,
) -> Plan:
    """Plan a clip that comes from or goes to a pipe.

    Args:
        ends: source and target, as a user names them.
        clip: header of the source.
        cut: the part that is wanted.
        pipe: those ends that are pipes.
        settings: encoder.
        overwrite: replace what exists.

    Raises:
        PlanError: The target exists or cannot hold the frames, or there is nothing in the part.
    """
    _check_cut(clip, cut)
    source, target = Path(ends[0]), Path(ends[1])
    if pipe.target is None:
        check_holds(None, target, clip, settings)
        _check_target(None, target, overwrite)
    src = "stdin" if pipe.source else ends[0]
    dst = "stdout" if pipe.target else ends[1]
    item = Item(0, src, dst, source, target, None, clip, cut, moving=True, pipe=pipe)
    return Plan(None, "", [item], source=store_of(source.parent), target=store_of(target.parent))


def check_holds(source: Path | None, target: Path, clip: Clip | None, settings: Settings) -> None:
    """Refuse a container that cannot hold the result (PlanError)."""
    if _not_held(source, target, clip, settings):
        raise _unheld(source, target, clip, settings)


def _container_for(
    source: Path | None, target: Path, clip: Clip | None, settings: Settings
) -> Path | None:
    """Another container that holds the result."""
    others = (target.with_suffix(suffix) for suffix in _CONTAINERS)
    return next((other for other in others if not _not_held(source, other, clip, settings)), None)


def _unheld(source: Path | None, target: Path, clip: Clip | None, settings: Settings) -> PlanError:
    """The error, with those ways around it that work for this clip."""
    ways = []
    other = _container_for(source, target, clip, settings)
    if other is not None:
        ways.append(f"name a file that ends in {other.suffix}")
    for change, text in _CHANGES:
        changed = replace(settings, video=replace(settings.video, **change))
        if not _not_held(source, target, clip, changed):
            ways.append(f"add {text}")
    kind, lost = target.suffix.lower()[1:], _not_held(source, target, clip, settings)
    return PlanError(f"{kind} cannot hold {', '.join(lost)}", hint=", or ".join(ways))


def _not_held(
    source: Path | None, target: Path, clip: Clip | None, settings: Settings
) -> list[str]:
    """What of the result a container cannot hold: the frames, or streams that are copied."""
    if clip is None:
        container_traits(target, "")
        return []
    return list(try_muxing(clip, source, target, settings.video).refused)


def _check_cut(clip: Clip, cut: TimeRange) -> None:
    begin, end = cut.begin or 0, cut.end
    if end is not None and end <= begin:
        raise PlanError(f"--to {float(end):g} is not after --from {float(begin):g}")
    if clip.seconds is not None and begin >= clip.seconds:
        raise PlanError(f"--from {float(begin):g}: the clip is only {float(clip.seconds):g} s long")


def _check_target(source: Path | None, target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise PlanError(f"{target} is a folder", hint="name a file")
    if target.exists() and not target.is_file():
        raise PlanError(f"{target} is not an ordinary file", hint='"-" writes to stdout')
    if source is not None and target.exists() and target.samefile(source):
        raise PlanError(f"{target} is the source itself", hint="name another file")
    if target.exists() and not overwrite:
        raise _existing(target)


def _existing(target: Path, why: str = "") -> PlanError:
    return PlanError(f"{target} exists{why}", hint="add --overwrite to replace it")
