"""`varfix video`: restore one video, from a file or a pipe to a file or a pipe."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import click

from varfix.cli.cluster_option import cluster_option
from varfix.cli.options import (
    Command,
    EventOptions,
    ModelOptions,
    event_options,
    model_options,
    terminal_options,
)
from varfix.cli.terminal import Terminal
from varfix.cli.video_arguments import VideoOptions, VideoPath, video_options
from varfix.engine.errors import ExitCode, Interrupted, ItemError

if TYPE_CHECKING:
    from varfix.cli.run_session import LoadedModel, RunSession
    from varfix.engine.batch.item import Item
    from varfix.engine.batch.stop import StopRequest
    from varfix.engine.restoration.restorer import Restorer
    from varfix.engine.settings.resolve import Resolved
    from varfix.engine.storage.result_history import ResultHistory
    from varfix.engine.video.clip import Clip

_EPILOG: Final = """\b
Examples:
  varfix video clip.mp4                               writes clip.varfix.mp4 next to it
  varfix video -p denoise --codec hevc --crf 16 old.avi new.mp4
  varfix video --sample 10 clip.mp4 look.mp4          ten seconds from the middle
  varfix video --preview 5 clip.mp4                   before and after, next to each other
  varfix video --from 1:30 --to 1:45 clip.mkv part.mkv
  varfix video -n clip.mp4                            show codec, container and time
  varfix video --json clip.mp4 | jq -r 'select(.event=="item.progress") | "\\(.fps) \\(.eta)"'
  ffmpeg -i a.mkv -f yuv4mpegpipe -strict -1 - | varfix video - - | ffmpeg -i - ...

\b
Timestamps (also of variable frame rate), rotation, pixel aspect, color tags and bit
depth are kept. Audio, subtitles, chapters, attachments and tags are copied; if the
container cannot hold them, the result is an mkv file. Pixels that the model does not
change reach the encoder bit for bit.

\b
To resume an interrupted run, run the same command again: it continues after the last
finished segment, and the result is the same as without an interruption. Finished
segments are kept in DST.varfix. The result gets its name only when it is complete
and verified: the number and timestamps of its frames, and the bytes of every copied
stream.

\b
HDR (PQ and HLG) is restored in a tone-mapped copy, and stays HDR. Transparency is kept
in mov (ProRes 4444) and mkv (FFV1); output.flatten=white puts a color under it.
Not supported (the message gives a command that helps): Dolby Vision profile 5, damaged
videos; interlaced ones without --deinterlace. Settings for videos, with --set or in a
preset file:
  video.segment_seconds=4  segment length: at most this much is redone after an
                           interruption; also the key-frame interval
  video.speed=slow         preset of the encoder
  video.encoder_options=tune=grain,aq-mode=3
  video.deflicker_window=4 temporal window of the deflicker filter, frames on each
                           side; 0 disables it
  video.denoise_window=3   noisy frames are averaged with as many neighbors on each side
                           where they agree; 0 disables it
  video.interlaced=fields  deinterlace into one frame for each field: twice the frame
                           rate; 'ignore' is for videos that are wrongly marked
  video.damaged=conceal    accept the decoder's reconstruction of damaged data
"""


@click.command("video", cls=Command, epilog=_EPILOG)
@click.argument("src", type=VideoPath(exists=True, dir_okay=False, allow_dash=True))
@click.argument("dst", required=False, type=click.Path(allow_dash=True))
@model_options
@video_options
@event_options
@cluster_option
@terminal_options
def command(  # noqa: PLR0913 (one record for each group of options)
    src: str,
    dst: str | None,
    model: ModelOptions,
    options: VideoOptions,
    events: EventOptions,
    cluster: str | None,
    terminal: Terminal,
) -> int:
    """Restore the video SRC into the file DST; audio, subtitles and timestamps are kept.

    Without DST, the result is written next to SRC as NAME.varfix.EXT. SRC is a video (mp4, mov,
    mkv, webm, avi, mts, m2ts, ts, mpg, vob, dv, wmv, flv, 3gp), an animation (gif, webp), or a
    pattern of numbered images (frames/%04d.png). Formats that varfix does not write become mp4 or
    mkv. '-' is a y4m stream on stdin or stdout.
    """
    from varfix.engine.video.sources.numbered_images import is_pattern

    if dst == "":
        raise click.UsageError("DST is empty (is a shell variable unset?)")
    resolved = options.resolve(model, terminal)
    if options.fps is not None and (src == "-" or not is_pattern(Path(src))):
        raise click.UsageError("--fps is for numbered images, such as frames/%04d.png")
    if 0 in (options.sample, options.preview):
        raise click.UsageError("--sample and --preview must be more than 0 seconds")
    job = VideoRequest(resolved, model.label, options, events, terminal, cluster)
    if "-" in (src, dst):
        if cluster is not None:
            raise click.UsageError("--cluster cannot be combined with '-'")
        return _restore_piped(src, dst, job)
    return _restore(Path(src), None if dst is None else Path(dst), job)


@dataclass(frozen=True)
class VideoRequest:
    """Options of the command, without the two ends of the video."""

    resolved: Resolved
    preset: str
    options: VideoOptions
    events: EventOptions
    terminal: Terminal
    cluster: str | None = None


def _restore(source: Path, target: Path | None, job: VideoRequest) -> int:
    from varfix.cli.run_session import RunSession
    from varfix.engine.batch.item import VideoPart
    from varfix.engine.batch.plan_clip import choose_target, clip_item

    settings = job.resolved.settings
    if job.cluster is not None:  # workers have another current folder
        source, target = source.absolute(), target and target.absolute()
    clip = _header(source, job)
    chosen = choose_target(source, target, clip, settings)
    if chosen.note:
        job.terminal.say(chosen.note)
    part = VideoPart(clip, job.options.cut(clip.seconds if clip else None))
    item = clip_item(source, chosen.path, part, job.options.overwrite, _history())
    return _run(item, RunSession(settings, job.terminal, job.events, job.preset), job)


def _restore_piped(src: str, dst: str | None, job: VideoRequest) -> int:
    from varfix.cli.run_session import RunSession
    from varfix.engine.batch.item import VideoPart
    from varfix.engine.batch.plan_clip import pipe_item, probe_pipe, probe_source
    from varfix.engine.video.clip import Pipe

    if dst is None:
        raise click.UsageError("SRC is -, but DST is missing; DST may be - as well")
    _check_streams(src, dst, job.events)
    settings = job.resolved.settings
    session = RunSession(settings, job.terminal, job.events, job.preset)
    source = probe_pipe(sys.stdin.buffer, settings) if src == "-" else None
    clip = source.clip if source else probe_source(Path(src), settings)
    out = StdoutSink(sys.stdout.buffer, session.stop) if dst == "-" else None
    part = VideoPart(clip, job.options.cut(clip.seconds), Pipe(source, out))
    item = pipe_item(src, dst, part, job.options.overwrite, settings)
    return _run(item, session, job)


def _check_streams(src: str, dst: str, events: EventOptions) -> None:
    """Reject streams that cannot carry a video (click.UsageError)."""
    if src == "-" and sys.stdin.isatty():
        raise click.UsageError("SRC is -, but stdin is a terminal; pipe a y4m stream in")
    if dst == "-" and events.as_json:
        raise click.UsageError("--json and DST - both need stdout; use --log-file")
    if dst == "-" and sys.stdout.isatty():
        raise click.UsageError("refusing to write a video to a terminal; use | ... or > FILE")


class StdoutSink:
    """Writes frames to stdout; requests a stop when the reader has closed it."""

    def __init__(self, stream: BinaryIO, stop: StopRequest) -> None:
        self._stream, self._stop = stream, stop

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data`.

        Raises:
            Interrupted: The reader has closed the stream.
        """
        try:
            return self._stream.write(data)
        except BrokenPipeError as error:
            raise self._gone() from error

    def flush(self) -> None:
        """Flush the buffer; raises as `write`."""
        try:
            self._stream.flush()
        except BrokenPipeError as error:
            raise self._gone() from error

    def _gone(self) -> Interrupted:
        self._stop.request(ExitCode.SIGPIPE)
        return Interrupted("the reader of the output closed it")


def _run(item: Item, session: RunSession, job: VideoRequest) -> int:
    from varfix.cli.dry_run import show_plan
    from varfix.engine.batch.context import RunOptions
    from varfix.engine.batch.fingerprint import settings_fingerprint
    from varfix.engine.batch.plan_clip import plan_clip
    from varfix.engine.system.display_names import single_line

    settings = job.resolved.settings
    with ExitStack() as stack:
        if job.cluster is None:
            loaded: LoadedModel[Restorer] = session.load_model()
        else:
            # One worker: the deflicker filter needs neighboring frames.
            loaded = stack.enter_context(session.on_cluster(job.cluster, workers=1))
        fingerprint = settings_fingerprint(settings, loaded.sha256, loaded.restorer.tile)
        history = _history()
        plan = plan_clip(item, fingerprint, settings, None if job.options.overwrite else history)
        if job.options.dry_run:
            return show_plan(plan, loaded, job.resolved, job.terminal, job.events)
        for skip in plan.skips:
            job.terminal.say(f"{single_line(skip.src)}: done already, the result is up to date")
        options = RunOptions(
            "video", loaded.sha256, stop=session.stop, executor=loaded.pool, history=history
        )
        return session.run(plan, loaded, options)


def _history() -> ResultHistory:
    from varfix.engine.storage.result_history import ResultHistory
    from varfix.engine.system.app_folders import history_folder

    return ResultHistory(history_folder())


def _header(source: Path, job: VideoRequest) -> Clip | None:
    """Return the header of the video, or None: the run reports the error as an event."""
    from varfix.engine.batch.plan_clip import probe_source

    try:
        return probe_source(source, job.resolved.settings)
    except ItemError:
        if job.options.dry_run:
            raise
        return None
