"""The events of a run: schema 1 of the NDJSON events (cli/README.md).

The engine emits events; the command line shows, writes or counts them. Field names and `code`
values
are a public interface: within a schema version, fields are added but do not change.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal

import msgspec

SCHEMA: Final = 1

Status = Literal["ok", "partial", "failed", "stopped"]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """An event of a run."""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The model of a run."""

    name: str
    sha256: str


class DeviceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The device of a run; `used` is the actual device, whatever was requested."""

    requested: str
    used: str
    provider: str
    precision: str


class RunStart(Event, frozen=True, kw_only=True, tag="run.start"):
    """The model is loaded."""

    version: str
    command: str
    model: ModelFacts
    device: DeviceFacts
    tile: int
    batch: int


class PlanDone(Event, frozen=True, kw_only=True, tag="plan"):
    """The plan is complete; `pixels` counts the images to restore.

    `ignored` counts files below the source that are not images or were filtered out.
    """

    items: int
    skip_done: int
    skip_stale: int
    skip_foreign: int
    pixels: int
    ignored: int = 0


class ItemStart(Event, frozen=True, kw_only=True, tag="item.start"):
    """An image is being read; its size is null when its header could not be read."""

    id: int
    src: str
    dst: str
    width: int | None
    height: int | None
    frames: int | None = None


class ItemProgress(Event, frozen=True, kw_only=True, tag="item.progress"):
    """Tiles of an image or frames of a video are done; at most two events per second for each.

    For videos, `fps` is the number of frames per second, and `eta` the remaining seconds; else
    null.
    """

    id: int
    done: int
    total: int
    unit: Literal["tile", "frame"] = "tile"
    fps: float | None = None
    eta: float | None = None


class RetryCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Repeated work for an image."""

    fp32: int = 0
    oom: int = 0


class ItemDone(Event, frozen=True, kw_only=True, tag="item.done"):
    """An image is published; `stage` holds the seconds of decode, infer and encode.

    `found` holds the probability of each kind of damage that the model judges, for clips the mean
    over the judged frames; `applied` the kinds that were treated, the most likely first. Both are
    absent for models that judge nothing.

    `tone_shift` is the mean magnitude by which means over blocks of about 32 x 32 pixels changed,
    as a fraction of the distance from black to white; for clips, the mean over the frames that
    this run restored. Null when nothing was measured.
    """

    id: int
    seconds: float
    stage: dict[str, float]
    bytes: int
    retries: RetryCounts
    tone_shift: float | None = None
    found: dict[str, float] | msgspec.UnsetType = msgspec.UNSET
    applied: tuple[str, ...] | msgspec.UnsetType = msgspec.UNSET


class ItemJudged(Event, frozen=True, kw_only=True, tag="item.judged"):
    """An image was judged and not restored (`varfix diagnose`); `stage` as in `ItemDone`.

    `found` holds the probability of each kind of damage, `applied` the kinds that a run with the
    same settings would treat, the most likely first.
    """

    id: int
    src: str
    width: int
    height: int
    seconds: float
    stage: dict[str, float]
    found: dict[str, float]
    applied: tuple[str, ...]


class ItemSkip(Event, frozen=True, kw_only=True, tag="item.skip"):
    """An image is skipped: its output is `done`, `stale` or `foreign`."""

    id: int
    src: str
    reason: Literal["done", "stale", "foreign"]


class ItemFail(Event, frozen=True, kw_only=True, tag="item.fail"):
    """An image failed; the run continues."""

    id: int
    src: str
    code: str
    message: str
    hint: str | None = None
    retryable: bool = False


class Warn(Event, frozen=True, kw_only=True, tag="warning"):
    """A problem that does not stop the run."""

    code: str
    message: str
    id: int | None = None


class RunEnd(Event, frozen=True, kw_only=True, tag="run.end"):
    """The run has ended; `exit` is the exit code, `busy` holds shares of the time.

    `applied` is the number of images treated for each kind of damage; it is absent if the model
    predicts no degradations.
    """

    status: Status
    exit: int
    ok: int
    skipped: int
    failed: int
    seconds: float
    per_second: float
    busy: dict[str, float]
    applied: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


EventHandler = Callable[[Event], None]


def encode(event: Event, run_id: str, now: datetime) -> bytes:
    """Return one line of NDJSON with its newline.

    Args:
        event: The event.
        run_id: Identifier of the run, the same for all of its events.
        now: Time of the event in UTC.
    """
    stamp = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = msgspec.to_builtins(event)
    line = {"v": SCHEMA, "t": stamp, "run": run_id, "event": fields.pop("event"), **fields}
    return msgspec.json.encode(line) + b"\n"
