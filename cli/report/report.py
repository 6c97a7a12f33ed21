"""`--report FILE`: what became of every image, for people (.html) or for programs (.json, .csv).

A report is gathered while the run goes on, in unnamed files beside the place where it will be, so
that memory does not grow with the number of images; it appears whole, once the run has ended.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal, Protocol

import msgspec

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
    from varfix.engine.image.picture import Floats


class Heading(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line knows of a run before it begins.

    Attributes:
        source: Folder of the images.
        target: Folder of the results.
        preset: Its name.
        settings: Each setting as text, by dotted key.
        origins: The place that decided each setting.
    """

    source: str
    target: str
    preset: str
    settings: Mapping[str, str]
    origins: Mapping[str, str]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one image; times in seconds, None where there is nothing to tell."""

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


class Story(msgspec.Struct, kw_only=True):
    """A run as a whole, growing with its events; without `end`, it was broken off."""

    heading: Heading
    began: str
    start: RunStart | None = None
    plan: PlanDone | None = None
    warnings: list[Warn] = []
    end: RunEnd | None = None


class Previews(msgspec.Struct, frozen=True):
    """Small JPEG files of an image, before and after.

    Attributes:
        whole: All of it, made smaller.
        detail: A part of it in its own size; None where the whole is not made smaller.
    """

    whole: tuple[bytes, bytes]
    detail: tuple[bytes, bytes] | None = None

    @property
    def size(self) -> int:
        """Bytes held."""
        return sum(map(len, (*self.whole, *(self.detail or ()))))


class Writer(Protocol):
    """A format of reports."""

    @abstractmethod
    def wants_previews(self, story: Story) -> bool:
        """Tell whether the image that was restored just now is to be shown; asked once each."""

    @abstractmethod
    def add(self, row: Row, previews: Previews | None) -> None:
        """Put an image aside in the file that the writer was made with."""

    @abstractmethod
    def compose(self, story: Story, out: IO[bytes]) -> None:
        """Write the report, once no more images come."""


class Report:
    """An observer that writes down what it is told; told one event at a time."""

    # Longest side of the images in a report, in pixels.
    SIDE: Final = 512
    # Warnings beyond these are in the log.
    WARNINGS: Final = 200

    def __init__(self, heading: Heading, writer: Writer, path: Path) -> None:
        self.story = Story(heading=heading, began=datetime.now(UTC).isoformat(timespec="seconds"))
        self._writer = writer
        self._path = path
        self._starts: dict[int, ItemStart] = {}
        self._previews: dict[int, Previews] = {}

    def __call__(self, event: Event) -> None:
        """Take note of `event`."""
        story = self.story
        if isinstance(event, RunStart):
            story.start = event
        elif isinstance(event, PlanDone):
            story.plan = event
        elif isinstance(event, RunEnd):
            story.end = event
        elif isinstance(event, Warn):
            if len(story.warnings) < self.WARNINGS:
                story.warnings.append(event)
        elif isinstance(event, ItemStart):
            self._starts[event.id] = event
        elif isinstance(event, ItemDone | ItemFail | ItemSkip):
            start = self._starts.pop(event.id, None)
            with translate_os_errors(self._path):
                self._writer.add(_row(event, start), self._previews.pop(event.id, None))

    def look(self, item: int, before: Floats, after: Floats) -> None:
        """Keep previews of a restored image if the report will show it.

        Args:
            item: Its id.
            before: (H, W, 3) float32 in [0, 1].
            after: The same, restored.
        """
        from varfix.engine.image.preview import detail, preview

        if not self._writer.wants_previews(self.story):
            return
        whole = preview(before, self.SIDE), preview(after, self.SIDE)
        part = detail(before, after, self.SIDE)
        near = part and (preview(before[part], self.SIDE), preview(after[part], self.SIDE))
        self._previews[item] = Previews(whole, near)


@contextmanager
def reporting(
    path: Path | None, heading: Heading, announce: Callable[[str], None]
) -> Iterator[Report | None]:
    """Gather a report while the block runs and write it afterwards, however the block ends.

    Args:
        path: Where to; its ending decides the format. None for no report.
        heading: The run's circumstances.
        announce: Says where the report is.

    Raises:
        OutputDeniedError: There can be no file at that place; before the block.
        OutputError: The finished report cannot be stored.
    """
    if path is None:
        yield None
        return
    with ExitStack() as stack:
        writer = _writer(path, stack)
        report = Report(heading, writer, path)
        try:
            yield report
        finally:
            _publish(path, writer, report.story)
            announce(f"Report: {path}")


def pour(spool: IO[bytes], out: IO[bytes]) -> None:
    """Copy all of what was put aside to `out`."""
    spool.seek(0)
    shutil.copyfileobj(spool, out, 1 << 16)


def _row(event: ItemDone | ItemFail | ItemSkip, start: ItemStart | None) -> Row:
    if isinstance(event, ItemSkip):
        return Row(id=event.id, src=event.src, status="skipped", code=event.reason)
    dst, width, height = (start.dst, start.width, start.height) if start else (None, None, None)
    if isinstance(event, ItemFail):
        return Row(
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
    return Row(
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
            f"--report {path}: {error.strerror or error}. Nothing was restored."
        ) from error
    suffix = path.suffix.lower()
    if suffix == ".html":
        return HtmlWriter(*spools)
    return JsonWriter(spools[0]) if suffix == ".json" else CsvWriter(spools[0])


@contextmanager
def _spool(folder: Path) -> Iterator[IO[bytes]]:
    """Open a file without a name: nothing is left behind, whatever happens."""
    file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed below, come what may)
    try:
        yield file
    finally:
        # The rest that a full disk does not take is of no use to anybody by now.
        with suppress(OSError):
            file.close()


def _publish(path: Path, writer: Writer, story: Story) -> None:
    with translate_os_errors(path), replacement(path) as part, part.open("wb") as out:
        writer.compose(story, out)
