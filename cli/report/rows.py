"""Records of a report, and the interface of its writers."""

from __future__ import annotations

import shutil
from abc import abstractmethod
from collections.abc import Mapping
from typing import IO, Literal, Protocol

import msgspec

from varfix.engine.events import PlanDone, RunEnd, RunStart, Warn


class ReportHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Properties of a run that are known before it starts.

    Attributes:
        source: Folder of the images.
        target: Folder of the results.
        preset: Name of the preset.
        settings: Each setting as text, by dotted key.
        origins: Origin of each setting.
    """

    source: str
    target: str
    preset: str
    settings: Mapping[str, str]
    origins: Mapping[str, str]


class ReportRow(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of one image; times in seconds; None for unknown values.

    `found` is the probability of each kind of damage, `applied` the treated kinds; see `ItemDone`.
    `tone_shift` is that of the event `item.done`, a fraction.
    """

    id: int
    src: str
    dst: str | None = None
    status: Literal["restored", "skipped", "failed"]
    code: str | None = None
    message: str | None = None
    hint: str | None = None
    width: int | None = None
    height: int | None = None
    bytes: int | None = None
    seconds: float | None = None
    decode: float | None = None
    infer: float | None = None
    encode: float | None = None
    retries_fp32: int | None = None
    retries_oom: int | None = None
    applied: tuple[str, ...] | None = None
    found: dict[str, float] | None = None
    tone_shift: float | None = None


class RunReport(msgspec.Struct, kw_only=True):
    """A run, filled from its events; `end` is None if the run was aborted."""

    heading: ReportHeader
    began: str
    start: RunStart | None = None
    plan: PlanDone | None = None
    warnings: list[Warn] = []
    end: RunEnd | None = None


class Previews(msgspec.Struct, frozen=True):
    """Small JPEG files of an image, before and after.

    Attributes:
        whole: The whole image, resized.
        detail: A part at full size; None if the whole image is not resized.
    """

    whole: tuple[bytes, bytes]
    detail: tuple[bytes, bytes] | None = None

    @property
    def size(self) -> int:
        """Size in bytes."""
        return sum(map(len, (*self.whole, *(self.detail or ()))))


class Writer(Protocol):
    """A format of reports."""

    @abstractmethod
    def wants_previews(self, report: RunReport) -> bool:
        """Return whether to show the latest restored image; called once per image."""

    @abstractmethod
    def add(self, row: ReportRow, previews: Previews | None) -> None:
        """Append an image to the temporary file."""

    @abstractmethod
    def compose(self, report: RunReport, out: IO[bytes]) -> None:
        """Write the report after the last image."""


def copy_spool(spool: IO[bytes], out: IO[bytes]) -> None:
    """Copy a temporary file to `out`."""
    spool.seek(0)
    shutil.copyfileobj(spool, out, 1 << 16)
