"""`varfix image`: restore one image, from a file or stdin to a file or stdout."""

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
    option,
    output_options,
    terminal_options,
)
from varfix.cli.stdio import write_all
from varfix.cli.terminal import Terminal
from varfix.engine.errors import ExitCode

if TYPE_CHECKING:
    from varfix.cli.run_session import LoadedModel
    from varfix.engine.batch.item import Item
    from varfix.engine.settings.resolve import Resolved
    from varfix.engine.settings.types import Settings
    from varfix.onnx.inference.restorer import ModelRestorer

# Bytes from which the format is detected.
_HEAD: Final = 4096

_EPILOG: Final = """\b
Examples:
  varfix image night.jpg night.fixed.jpg
  varfix image -p denoise -s 0.5 scan.tif scan.png      the extension sets the format
  varfix image a.jpg restored/                          into a folder, same name
  curl -s URL | varfix image - - > out.png              from stdin to stdout
  varfix image -f png photo.webp - | viewer -
  varfix image --explain why rain.jpg dry.jpg           explanation images in why/
"""


@dataclass(frozen=True)
class ImageEndpoints:
    """Source and target of the image: each a path, or `-`."""

    source: str
    target: str

    def check(self, as_json: bool) -> None:
        """Reject streams that cannot carry an image (click.UsageError)."""
        if not self.target:
            raise click.UsageError("DST is empty (is a shell variable unset?)")
        if self.source == "-" and sys.stdin.isatty():
            raise click.UsageError("SRC is -, but stdin is a terminal; pipe an image in")
        if self.target != "-":
            return
        if as_json:
            raise click.UsageError("--json and DST - both need stdout; use --log-file")
        if sys.stdout.isatty():
            raise click.UsageError("refusing to write an image to a terminal; use > FILE or | ...")

    def path(self) -> Path:
        """Return the file to write: in DST if DST is a folder."""
        target = Path(self.target)
        if target.is_dir() or self.target.endswith(("/", "\\")):
            if self.source == "-":
                raise click.UsageError("DST is a folder, but the image from stdin has no name")
            return target / Path(self.source).name
        return target

    @contextmanager
    def files(self) -> Iterator[tuple[Path, Path]]:
        """Yield files for both ends; a temporary file stands in for a pipe.

        After the block, the result is written to stdout if DST is `-`.
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

    def named(self, item: Item) -> Item:
        """Return the item with `stdin` and `stdout` as names for events and messages."""
        from varfix.engine.batch.item import STDIN

        source, target = item.source, item.target
        if self.source == "-":
            source = replace(source, given=STDIN)
        if self.target == "-":
            target = replace(target, given="stdout")
        return replace(item, source=source, target=target)


def _spool(stream: BinaryIO, place: Path) -> None:
    """Copy a pipe to a file; without an image in it, only its beginning."""
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
@option(
    "Output",
    "--explain",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Also write images to DIR that explain the model's prior: where it is used, the weight of"
    " its scales, and its effect step by step. For VarFormer models.",
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

    The format is set by the name of DST, else by --format, else it is the format of SRC.
    """
    ends = ImageEndpoints(src, dst)
    ends.check(events.as_json)
    resolved = model.resolve(terminal, {"output.format": output.format})
    if dst != "-":
        resolved = replace(resolved, settings=_named_format(resolved.settings, ends, output))
    with ends.files() as (source, target):
        job = ImageRequest(resolved, model.label, output, events, explain, terminal)
        return _restore(ends, source, target, job)


@dataclass(frozen=True)
class ImageRequest:
    """Options of the command, without the two ends of the image."""

    resolved: Resolved
    preset: str
    output: OutputOptions
    events: EventOptions
    explain: Path | None
    terminal: Terminal


def _restore(ends: ImageEndpoints, source: Path, target: Path, job: ImageRequest) -> int:
    from varfix.cli.dry_run import show_plan
    from varfix.cli.run_session import RunSession
    from varfix.engine.batch.context import RunOptions
    from varfix.engine.batch.fingerprint import settings_fingerprint
    from varfix.engine.batch.plan import plan_single
    from varfix.engine.batch.planner import image_item

    settings = job.resolved.settings
    session = RunSession(settings, job.terminal, job.events, job.preset)
    item = ends.named(image_item(source, target, job.output.overwrite, settings))
    loaded = session.load_model()
    plan = plan_single(item, settings_fingerprint(settings, loaded.sha256, loaded.restorer.tile))
    if job.explain is not None:
        from varfix.onnx.inference.explain import require_explainable

        require_explainable(settings.model.name, loaded.restorer)
    if job.output.dry_run:
        return show_plan(plan, loaded, job.resolved, job.terminal, job.events)
    options = RunOptions("image", loaded.sha256, stop=session.stop)
    code = session.run(plan, loaded, options)
    if job.explain is not None and code == ExitCode.OK:
        _explain(source, job.explain, loaded, job)
    return code


def _explain(
    source: Path, folder: Path, loaded: LoadedModel[ModelRestorer], job: ImageRequest
) -> None:
    from varfix.engine.image.reader import decode_image
    from varfix.onnx.inference.explain import explain

    settings = job.resolved.settings
    image = decode_image(source.read_bytes(), max_pixels=settings.limits.max_pixels)
    model = settings.model
    with job.terminal.busy("Writing explanation images"):
        written = explain(model.name, loaded.restorer, image.pixels, folder, model.task)
    job.terminal.say(f"{folder}: {', '.join(path.name for path in written)}")


def _named_format(settings: Settings, ends: ImageEndpoints, output: OutputOptions) -> Settings:
    """Set the format from the name of DST; reject a contradicting --format."""
    from varfix.engine.formats import canonical, format_of

    target = ends.path()
    promised = format_of(target)
    if promised is None:
        if settings.output.format == "keep":
            raise click.UsageError(f"{target}: unknown extension; use --format")
        return settings
    if output.format not in (None, "keep") and canonical(output.format) != promised:
        raise click.UsageError(f"{target} is named as {promised}, but --format is {output.format}")
    short = {"jpeg": "jpg"}.get(promised, promised)
    chosen = msgspec.structs.replace(settings.output, format=short)
    return msgspec.structs.replace(settings, output=chosen)
