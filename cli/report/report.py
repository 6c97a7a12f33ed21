"""`--report FILE`: the outcome of every image, for people (.html) or for programs (.json, .csv).

A report is collected in unnamed temporary files in its folder, so that memory does not grow with
the number of images. It is written atomically at the end of the run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from msgspec import UNSET

from varfix.cli.report.rows import Previews, ReportHeader, ReportRow, RunReport, Writer
from varfix.engine.errors import OutputDeniedError
from varfix.engine.events import (
    Event,
    ItemDone,
    ItemFail,
    ItemSkip,
    ItemStart,
    PlanDone,
    RunEnd,
    RunStart,
    Warn,
)
from varfix.engine.system.atomic import replacement, translate_os_errors

if TYPE_CHECKING:
    from varfix.engine.image.decoded_image import Floats


class ReportCollector:
    """Collects a report from the events of a run; called from one thread at a time."""

    # Longest side of the images in a report, in pixels.
    SIDE: Final = 512
    # Warnings beyond these are in the log.
    WARNINGS: Final = 200

    def __init__(self, heading: ReportHeader, writer: Writer, path: Path) -> None:
        self.report = RunReport(
            heading=heading, began=datetime.now(UTC).isoformat(timespec="seconds")
        )
        self._writer = writer
        self._path = path
        self._starts: dict[int, ItemStart] = {}
        self._previews: dict[int, Previews] = {}

    def __call__(self, event: Event) -> None:
        """Add `event` to the report."""
        report = self.report
        if isinstance(event, RunStart):
            report.start = event
        elif isinstance(event, PlanDone):
            report.plan = event
        elif isinstance(event, RunEnd):
            report.end = event
        elif isinstance(event, Warn):
            if len(report.warnings) < self.WARNINGS:
                report.warnings.append(event)
        elif isinstance(event, ItemStart):
            self._starts[event.id] = event
        elif isinstance(event, ItemDone | ItemFail | ItemSkip):
            start = self._starts.pop(event.id, None)
            with translate_os_errors(self._path):
                self._writer.add(_row(event, start), self._previews.pop(event.id, None))

    def add_previews(self, item: int, before: Floats, after: Floats) -> None:
        """Create previews of a restored image if the report will show it.

        Args:
            item: Id of the item.
            before: (H, W, 3) float32 in [0, 1].
            after: The restored image, of the same shape.
        """
        from varfix.engine.image.preview import detail, preview

        if not self._writer.wants_previews(self.report):
            return
        whole = preview(before, self.SIDE), preview(after, self.SIDE)
        part = detail(before, after, self.SIDE)
        near = part and (preview(before[part], self.SIDE), preview(after[part], self.SIDE))
        self._previews[item] = Previews(whole, near)


@contextmanager
def reporting(
    path: Path | None, heading: ReportHeader, announce: Callable[[str], None]
) -> Iterator[ReportCollector | None]:
    """Collect a report while the block runs and write it afterwards, also after an error.

    Args:
        path: File of the report; its extension sets the format. None for no report.
        heading: Properties of the run.
        announce: Prints the path of the report.

    Raises:
        OutputDeniedError: The file cannot be written; raised before the block.
        OutputError: The report cannot be written at the end.
    """
    if path is None:
        yield None
        return
    with ExitStack() as stack:
        writer = _writer(path, stack)
        collector = ReportCollector(heading, writer, path)
        try:
            yield collector
        finally:
            _publish(path, writer, collector.report)
            announce(f"report: {path}")


def _row(event: ItemDone | ItemFail | ItemSkip, start: ItemStart | None) -> ReportRow:
    if isinstance(event, ItemSkip):
        return ReportRow(id=event.id, src=event.src, status="skipped", code=event.reason)
    dst, width, height = (start.dst, start.width, start.height) if start else (None, None, None)
    if isinstance(event, ItemFail):
        return ReportRow(
            id=event.id,
            src=event.src,
            dst=dst,
            status="failed",
            code=event.code,
            message=event.message,
            hint=event.hint,
            width=width,
            height=height,
        )
    return ReportRow(
        id=event.id,
        src=start.src if start else "",
        dst=dst,
        status="restored",
        width=width,
        height=height,
        bytes=event.bytes,
        seconds=event.seconds,
        decode=event.stage.get("decode"),
        infer=event.stage.get("infer"),
        encode=event.stage.get("encode"),
        retries_fp32=event.retries.fp32,
        retries_oom=event.retries.oom,
        applied=None if event.applied is UNSET else event.applied,
        found=None if event.found is UNSET else event.found,
        tone_shift=event.tone_shift,
    )


def _writer(path: Path, stack: ExitStack) -> Writer:
    from varfix.cli.report.html import HtmlWriter
    from varfix.cli.report.table import CsvWriter, JsonWriter

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "Is a directory")
        spools = [stack.enter_context(_spool(path.parent)) for _ in range(3)]
    except OSError as error:
        raise OutputDeniedError(
            f"--report {path}: cannot be written ({error.strerror or error})"
        ) from error
    suffix = path.suffix.lower()
    if suffix == ".html":
        return HtmlWriter(*spools)
    return JsonWriter(spools[0]) if suffix == ".json" else CsvWriter(spools[0])


@contextmanager
def _spool(folder: Path) -> Iterator[IO[bytes]]:
    """Open an unnamed temporary file, which leaves nothing behind."""
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed below)
    try:
        yield file
    finally:
        # The content is no longer needed; a full disk may fail the flush.
        with suppress(OSError):
            file.close()


def _publish(path: Path, writer: Writer, report: RunReport) -> None:
    with translate_os_errors(path), replacement(path) as part, part.open("wb") as out:
        writer.compose(report, out)
