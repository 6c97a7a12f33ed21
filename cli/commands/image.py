"""`varfix image`: one image, from a file or stdin to a file or stdout."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click
import msgspec

from varfix.cli.folder_argument import FILE_IN
from varfix.cli.options import (
    Command,
    EventOptions,
    ModelOptions,
    OutputOptions,
    event_options,
    model_options,
    output_options,
    terminal_options,
)
from varfix.cli.stdio import write_all
from varfix.cli.terminal import Terminal
from varfix.engine.errors import ExitCode

if TYPE_CHECKING:
    from varfix.cli.run_session import Opened
    from varfix.engine.batch.plan import Plan
    from varfix.engine.settings.resolve import Resolved
    from varfix.engine.settings.types import Settings
    from varfix.onnx.inference.open_model import OnnxRestorer

# Bytes that tell what a file is.
_HEAD: Final = 4096

_EPILOG: Final = """\b
Examples:
  varfix image night.jpg night.fixed.jpg
  varfix image -p denoise -s 0.5 scan.tif scan.png      another format by its name
  varfix image a.jpg restored/                          into a folder, same name
  curl -s URL | varfix image - - > out.png              bytes in, bytes out
  varfix image -f png photo.webp - | viewer -
  varfix image --explain why rain.jpg dry.jpg           also draw why, into why/
"""


@dataclass(frozen=True)
class Ends:
    """Where the image comes from and goes to, as given: a path, or `-`."""

    source: str
    target: str

    def check(self, as_json: bool) -> None:
        """Refuse streams that cannot carry an image (click.UsageError)."""
        if not self.target:
            raise click.UsageError("DST is empty: a variable that is not set?")
        if self.source == "-" and sys.stdin.isatty():
            raise click.UsageError("SRC is -, but stdin is a terminal; pipe an image in")
        if self.target != "-":
            return
        if as_json:
            raise click.UsageError("events and image both want stdout; use --log-file")
        if sys.stdout.isatty():
            raise click.UsageError("refusing to write an image to a terminal; use > FILE or | ...")

    def path(self) -> Path:
        """Return the file to write: inside DST if that is a folder."""
        target = Path(self.target)
        if target.is_dir() or self.target.endswith(("/", "\\")):
            if self.source == "-":
                raise click.UsageError("DST is a folder, but the image from stdin has no name")
            return target / Path(self.source).name
        return target

    @contextmanager
    def files(self) -> Iterator[tuple[Path, Path]]:
        """Give files for both ends; a pipe is kept in one, so that it is restored like any other.

        After the block the result, if there is one, is written to stdout.
        """
        with tempfile.TemporaryDirectory(prefix="varfix-") as folder:
            source, target = Path(folder, "in"), Path(folder, "out")
            if self.source == "-":
                _spool(sys.stdin.buffer, source)
            yield (
                source if self.source == "-" else Path(self.source),
                target if self.target == "-" else self.path(),
            )
            if self.target == "-" and target.exists():
                write_all(sys.stdout.buffer, target.read_bytes())

    def named(self, plan: Plan) -> Plan:
        """Call the ends of a pipe by their own names in events and messages."""
        items = plan.items
        if self.source == "-":
            items = [replace(item, src="stdin") for item in items]
        if self.target == "-":
            items = [replace(item, dst="stdout") for item in items]
        return replace(plan, items=items)


def _spool(stream: BinaryIO, place: Path) -> None:
    """Keep a pipe's bytes in a file; of what is no image, however endless, only the beginning."""
    from varfix.engine.formats import FORMATS, sniff

    with place.open("wb") as file:
        head = stream.read(_HEAD)
        file.write(head)
        if sniff(head) in FORMATS:
            shutil.copyfileobj(stream, file)


@click.command("image", cls=Command, epilog=_EPILOG)
@click.argument("src", type=FILE_IN)
@click.argument("dst", type=click.Path(allow_dash=True))
@model_options
@output_options
@event_options
@click.option(
    "--explain",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also draw what the model's prior did: where it entered, which of its scales counted, and"
    " the image with more and more of what it says. For VarFormers.",
)
@terminal_options
def command(  # noqa: PLR0913 (one record for each group of options)
    src: str,
    dst: str,
    model: ModelOptions,
    output: OutputOptions,
    events: EventOptions,
    explain: Path | None,
    terminal: Terminal,
) -> int:
    """Restore one image, SRC, into the file DST; '-' is stdin or stdout.

    The format is that of DST's name, else --format, else the source's own.
    """
    ends = Ends(src, dst)
    ends.check(events.as_json)
    resolved = model.resolve(terminal, {"output.format": output.format})
    if dst != "-":
        resolved = replace(resolved, settings=_named_format(resolved.settings, ends, output))
    with ends.files() as (source, target):
        job = Job(resolved, model.label, output, events, explain, terminal)
        return _restore(ends, source, target, job)


@dataclass(frozen=True)
class Job:
    """All that was asked for, besides the image's two ends."""

    resolved: Resolved
    preset: str
    output: OutputOptions
    events: EventOptions
    explain: Path | None
    terminal: Terminal


def _restore(ends: Ends, source: Path, target: Path, job: Job) -> int:
    from varfix.cli.dry_run import show_plan
    from varfix.cli.run_session import Session
    from varfix.engine.batch.context import Options
    from varfix.engine.batch.plan import plan_file

    settings = job.resolved.settings
    session = Session(settings, job.terminal, job.events, job.preset)
    plan = ends.named(plan_file(source, target, job.output.overwrite, settings))
    opened = session.opened()
    if job.explain is not None:
        from varfix.onnx.inference.explain import check_explains

        check_explains(settings.model.name, opened.restorer)
    if job.output.dry_run:
        return show_plan(plan, opened, job.resolved, job.terminal, job.events)
    options = Options("image", opened.sha256, stop=session.stop)
    code = session.run(plan, opened, options)
    if job.explain is not None and code == ExitCode.OK:
        _explain(source, job.explain, opened, job)
    return code


def _explain(source: Path, folder: Path, opened: Opened[OnnxRestorer], job: Job) -> None:
    from varfix.engine.image.reader import read_picture
    from varfix.onnx.inference.explain import explain

    settings = job.resolved.settings
    picture = read_picture(source.read_bytes(), max_pixels=settings.limits.max_pixels)
    model = settings.model
    with job.terminal.busy(f"Drawing what {opened.restorer.card.name} did"):
        written = explain(model.name, opened.restorer, picture.pixels, folder, model.task)
    job.terminal.say(f"{folder}: {', '.join(path.name for path in written)}")


def _named_format(settings: Settings, ends: Ends, output: OutputOptions) -> Settings:
    """Let DST's name decide the format; what contradicts it is refused."""
    from varfix.engine.formats import canonical, format_of

    target = ends.path()
    promised = format_of(target)
    if promised is None:
        if settings.output.format == "keep":
            raise click.UsageError(f"{target}: its name does not tell the format; use --format")
        return settings
    if output.format not in (None, "keep") and canonical(output.format) != promised:
        raise click.UsageError(f"{target} is the name of a {promised}, but --format says otherwise")
    short = {"jpeg": "jpg"}.get(promised, promised)
    chosen = msgspec.structs.replace(settings.output, format=short)
    return msgspec.structs.replace(settings, output=chosen)
