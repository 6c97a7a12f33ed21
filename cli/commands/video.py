"""`varfix video`: one clip, from a file or a pipe to a file or a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import click

from varfix.cli.cluster_option import cluster_option
from varfix.cli.options import (
    Command,
    EventOptions,
    ModelOptions,
    event_options,
    model_options,
    packed,
    terminal_options,
)
from varfix.cli.terminal import Terminal
from varfix.engine.errors import ExitCode, Interrupted, ItemError

if TYPE_CHECKING:
    from varfix.cli.run_session import Opened, Session
    from varfix.engine.batch.plan import Plan
    from varfix.engine.batch.stop import StopRequest
    from varfix.engine.restoration.restorer import Restorer
    from varfix.engine.settings.resolve import Resolved
    from varfix.engine.settings.types import Settings
    from varfix.engine.video.clip import Clip, TimeRange

    _MomentType = click.ParamType[Fraction]
else:
    _MomentType = click.ParamType

_EPILOG: Final = """\b
Examples:
  varfix video clip.mp4                               writes clip.varfix.mp4 beside it
  varfix video -p denoise --codec hevc --crf 16 old.avi new.mp4
  varfix video --sample 10 clip.mp4 look.mp4          ten seconds from its middle: a preview
  varfix video --from 1:30 --to 1:45 clip.mkv part.mkv
  varfix video -n clip.mp4                            what would it become, and how long?
  varfix video --json clip.mp4 | jq -r 'select(.event=="item.progress") | "\\(.fps) \\(.eta)"'
  ffmpeg -i a.mkv -f yuv4mpegpipe -strict -1 - | varfix video - - | ffmpeg -i - ...

\b
Times of frames, rotation, pixel aspect, color tags and bit depth stay as they
are, whether frames are evenly spaced or not. Sound, subtitles, chapters,
attachments and tags are copied untouched; where the container cannot hold them,
the result is an mkv. What the model leaves alone reaches the encoder code for code.

\b
Stopped half-way, by Ctrl-C or by a power cut? The same command goes on with the
frame after the last finished segment, and gives the same result as a run that was
never stopped. What is finished lies in DST.varfix until then, and the result has
its name only when it is complete: as many frames as in the source, at the same
times, and the same bytes in every copied stream.

\b
Refused, with a way out: HDR (PQ and HLG), interlaced and partly transparent clips,
and damaged ones. Settings for clips, with --set or in a preset file:
  video.segment_seconds=4  segment length: at most this much is redone after an
                           interruption; also the key-frame interval
  video.speed=slow         preset of the encoder
  video.encoder_options=tune=grain,aq-mode=3
  video.streams=none       leave out sound and everything else
  video.deflicker_window=4 temporal window of the deflicker filter, frames on each
                           side; 0 disables it
  video.interlaced=ignore  for clips that are only marked as interlaced
  video.damaged=conceal    take what the decoder makes of damaged data
"""


class Moment(_MomentType):
    """A time in a clip: `90`, `1:30`, `1:02:03.5`."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fraction:
        """Return the seconds."""
        if isinstance(value, Fraction):
            return value
        parts = str(value).split(":")
        try:
            numbers = [Fraction(part) for part in parts]
        except (ValueError, ZeroDivisionError):
            numbers = []
        if not numbers or len(numbers) > 3 or any(n < 0 for n in numbers) or "/" in str(value):
            self.fail(f"'{value}' is no time such as 90, 1:30 or 1:02:03.5.", param, ctx)
        seconds = Fraction(0)
        for number in numbers:
            seconds = seconds * 60 + number
        return seconds


@dataclass(frozen=True)
class ClipOptions:
    """Which part of a clip, and how it is stored."""

    codec: str | None
    crf: int | None
    begin: Fraction | None
    end: Fraction | None
    sample: Fraction | None
    overwrite: bool
    dry_run: bool

    def cut(self, seconds: Fraction | None) -> TimeRange:
        """Return the part that is wanted of a clip of that length.

        Raises:
            click.UsageError: A sample and a part are asked for at once.
        """
        from varfix.engine.video.clip import TimeRange

        if self.sample is None:
            return TimeRange(self.begin, self.end)
        if self.begin is not None or self.end is not None:
            raise click.UsageError("--sample chooses the part itself; leave --from and --to out")
        if seconds is None or seconds <= self.sample:
            return TimeRange()
        begin = (seconds - self.sample) / 2
        return TimeRange(begin, begin + self.sample)


_clip_options = packed(
    "options",
    ClipOptions,
    click.option(
        "--codec",
        metavar="NAME",
        help="auto, h264, hevc, av1, ffv1 (without loss), or an encoder as FFmpeg calls it:"
        " hevc_nvenc, h264_videotoolbox. 'auto' is the clip's own or its successor."
        "  [default: auto]",
    ),
    click.option(
        "--crf",
        type=click.IntRange(0, 63),
        metavar="N",
        help="Quality: lower is better and larger.  [default: h264 17, hevc 18, av1 22]",
    ),
    click.option("--from", "begin", type=Moment(), metavar="T", help="Begin at a time: 90, 1:30."),
    click.option("--to", "end", type=Moment(), metavar="T", help="End before a time."),
    click.option(
        "--sample",
        type=Moment(),
        metavar="SEC",
        help="Only so many seconds from the middle: a preview of the run.",
    ),
    click.option("--overwrite", is_flag=True, help="Replace DST if it exists."),
    click.option(
        "-n",
        "--dry-run",
        is_flag=True,
        help="Show what would be done and with which model and device, then stop. With -v also"
        " every setting and where it comes from.",
    ),
)


@click.command("video", cls=Command, epilog=_EPILOG)
@click.argument("src", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.argument("dst", required=False, type=click.Path(allow_dash=True))
@model_options
@_clip_options
@event_options
@cluster_option
@terminal_options
def command(  # noqa: PLR0913 (one record for each group of options)
    src: str,
    dst: str | None,
    model: ModelOptions,
    options: ClipOptions,
    events: EventOptions,
    cluster: str | None,
    terminal: Terminal,
) -> int:
    """Restore the clip SRC into the file DST: every frame, every other stream, every timestamp.

    Without DST the result is SRC's name with .varfix before its end, beside it. mp4, mov, mkv, webm
    and avi are read; '-' is a y4m stream on stdin or stdout.
    """
    if dst == "":
        raise click.UsageError("DST is empty: a variable that is not set?")
    resolved = model.resolve(terminal, {"video.codec": options.codec, "video.crf": options.crf})
    if options.sample == 0:
        raise click.UsageError("--sample must be more than 0 seconds")
    job = Job(resolved, model.label, options, events, terminal, cluster)
    if "-" in (src, dst):
        if cluster is not None:
            raise click.UsageError("--cluster restores files; '-' is a stream on this machine")
        return _restore_piped(src, dst, job)
    return _restore(Path(src), None if dst is None else Path(dst), job)


@dataclass(frozen=True)
class Job:
    """All that was asked for, besides the clip's two ends."""

    resolved: Resolved
    preset: str
    options: ClipOptions
    events: EventOptions
    terminal: Terminal
    cluster: str | None = None


def _restore(source: Path, target: Path | None, job: Job) -> int:
    from varfix.cli.run_session import Session
    from varfix.engine.batch.plan_clip import choose_target, plan_clip

    settings = job.resolved.settings
    if job.cluster is not None:  # elsewhere, names would be looked up from another folder
        source, target = source.absolute(), target and target.absolute()
    clip = _header(source, job)
    chosen = choose_target(source, target, clip, settings)
    if chosen.note:
        job.terminal.say(chosen.note)
    cut = job.options.cut(clip.seconds if clip else None)
    plan = plan_clip(source, chosen.path, clip, cut, job.options.overwrite)
    return _run(plan, Session(settings, job.terminal, job.events, job.preset), job)


def _restore_piped(src: str, dst: str | None, job: Job) -> int:
    from varfix.cli.run_session import Session
    from varfix.engine.batch.plan_clip import plan_pipe
    from varfix.engine.video.clip import Pipe
    from varfix.engine.video.y4m import Y4mReader

    if dst is None:
        raise click.UsageError("SRC is -; name DST, which may be - as well")
    _check_streams(src, dst, job.events)
    settings = job.resolved.settings
    session = Session(settings, job.terminal, job.events, job.preset)
    source = None
    if src == "-":
        with _named("stdin"):
            source = Y4mReader(sys.stdin.buffer, interlaced=settings.video.interlaced)
    clip = source.clip if source else probe_named(Path(src), settings)
    out = StdoutSink(sys.stdout.buffer, session.stop) if dst == "-" else None
    pipe, cut = Pipe(source, out), job.options.cut(clip.seconds)
    plan = plan_pipe((src, dst), clip, cut, pipe, settings, overwrite=job.options.overwrite)
    return _run(plan, session, job)


def _check_streams(src: str, dst: str, events: EventOptions) -> None:
    """Refuse streams that cannot carry a clip (click.UsageError)."""
    if src == "-" and sys.stdin.isatty():
        raise click.UsageError("SRC is -, but stdin is a terminal; pipe a y4m stream in")
    if dst == "-" and events.as_json:
        raise click.UsageError("events and clip both want stdout; use --log-file")
    if dst == "-" and sys.stdout.isatty():
        raise click.UsageError("refusing to write a clip to a terminal; use | ... or > FILE")


class StdoutSink:
    """Stdout as a place for frames; when its reader has gone, the run is asked to stop."""

    def __init__(self, stream: BinaryIO, stop: StopRequest) -> None:
        self._stream, self._stop = stream, stop

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it.

        Raises:
            Interrupted: Nobody reads any more.
        """
        try:
            return self._stream.write(data)
        except BrokenPipeError as error:
            raise self._gone() from error

    def flush(self) -> None:
        """Hand over what is buffered; raises Interrupted as `write` does."""
        try:
            self._stream.flush()
        except BrokenPipeError as error:
            raise self._gone() from error

    def _gone(self) -> Interrupted:
        self._stop.ask(ExitCode.SIGPIPE)
        return Interrupted("the reader of the output went away")


def _run(plan: Plan, session: Session, job: Job) -> int:
    from varfix.cli.dry_run import show_plan
    from varfix.engine.batch.context import Options
    from varfix.engine.batch.fingerprint import settings_fingerprint

    settings = job.resolved.settings
    with ExitStack() as stack:
        if job.cluster is None:
            opened: Opened[Restorer] = session.opened()
        else:
            # A clip is made by one worker: its frames are steadied one by the other.
            opened = stack.enter_context(session.hired(job.cluster, workers=1))
        plan = replace(
            plan, recipe=settings_fingerprint(settings, opened.sha256, opened.restorer.tile)
        )
        if job.options.dry_run:
            return show_plan(plan, opened, job.resolved, job.terminal, job.events)
        options = Options("video", opened.sha256, stop=session.stop, crew=opened.crew)
        return session.run(plan, opened, options)


def _header(source: Path, job: Job) -> Clip | None:
    """Return the clip's header; what is wrong with it becomes an event when its turn comes."""
    from varfix.engine.batch.plan_clip import check_source
    from varfix.engine.video.probe import probe_for

    check_source(source)
    if job.options.dry_run:
        return probe_named(source, job.resolved.settings)
    try:
        return probe_for(source, job.resolved.settings)
    except ItemError:
        return None


def probe_named(source: Path, settings: Settings) -> Clip:
    """Return a clip's header; errors name the file."""
    from varfix.engine.video.probe import probe_for

    with _named(str(source)):
        return probe_for(source, settings)


@contextmanager
def _named(label: str) -> Iterator[None]:
    """Let errors of a clip begin with its name."""
    try:
        yield
    except ItemError as error:
        error.message = f"{label}: {error.message}"
        raise
