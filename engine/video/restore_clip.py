"""Restores a video: decoding, restoring and encoding run at the same time, segment by segment.

Finished segments are kept (`varfix.engine.video.encode.segments`), so the same command resumes
after any interruption. The result gets its final name only when it is complete and was compared
with the source (`varfix.engine.video.mux.verify`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from varfix.engine.errors import DecodeUnsupportedError, EncodeError, OutputLockedError
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.settings.types import Settings
from varfix.engine.system.atomic import temporary_path
from varfix.engine.system.folder_lock import lock_folder
from varfix.engine.video.clip import NO_PIPE, ByteSink, Clip, Pipe, TimeRange
from varfix.engine.video.deflicker import temporal_context
from varfix.engine.video.encode.encoders import keeps_hdr
from varfix.engine.video.encode.segment_writer import SegmentWriter
from varfix.engine.video.encode.segments import Segment, SegmentFolder
from varfix.engine.video.encode.side_by_side import SideBySideWriter, side_by_side
from varfix.engine.video.encode.writer import Encoding, encoding_for
from varfix.engine.video.frame_pipeline import (
    ClipCallbacks,
    FrameSource,
    FrameStreamContext,
    StageTimes,
    deflicker_settings,
    quarter_turns,
    stream_frames,
)
from varfix.engine.video.frame_sources import FileFrames, FileRange, PipeFrames
from varfix.engine.video.mux.assemble import assemble
from varfix.engine.video.mux.mux_input import EncodedSegments, MuxInput
from varfix.engine.video.mux.streams import container_traits
from varfix.engine.video.mux.trial import MuxTrial, try_muxing
from varfix.engine.video.mux.verify import verify
from varfix.engine.video.sources.numbered_images import DEMUXER, identity_of
from varfix.engine.video.y4m import Y4mWriter

_MAX_SEGMENT_FRAMES: Final = 1500


@dataclass(frozen=True)
class ClipRequest:
    """A video to restore.

    Attributes:
        source: File to read; None for a pipe.
        target: File to write; None for a pipe.
        clip: Header of the source.
        time_range: Part to restore.
        fingerprint: Digest of model and settings.
        pipe: Ends that are not files.
    """

    source: Path | None
    target: Path | None
    clip: Clip
    time_range: TimeRange
    fingerprint: str
    pipe: Pipe = NO_PIPE


def restore_clip(
    request: ClipRequest, restorer: Restorer, settings: Settings, callbacks: ClipCallbacks
) -> StageTimes:
    """Restore a video and publish the result.

    Raises:
        Interrupted: `callbacks.is_stopping` returned true; finished segments are kept.
        PlanError: The requested encoder cannot hold the video.
        ItemError: The video is damaged, or the model fails on a frame.
        OutputError: The disk is full, or writing fails; finished segments are kept.
        OutputLockedError: Another run writes this file.
        DeviceError: The device failed.
    """
    if request.pipe.target is not None:
        return _restore_to_pipe(request, request.pipe.target, restorer, settings, callbacks)
    clip, target = request.clip, request.target
    assert target is not None
    trial = try_muxing(clip, request.source, target, settings.video, request.time_range)
    if trial.refused:
        raise EncodeError(
            f"{target.suffix[1:]} cannot hold {', '.join(trial.refused)}",
            hint="restore it with `varfix video`, which chooses another container",
        )
    for stream in trial.lost:
        callbacks.warn("stream_lost", f"{stream} cannot be kept in {target.name}")
    for text in trial.converted:
        callbacks.warn("stream_converted", text)
    turns = quarter_turns(clip.display_matrix)
    shown = side_by_side(clip.layout, turns) if settings.video.compare else clip.layout
    encoding = encoding_for(replace(clip, layout=shown), settings.video)
    if encoding.layout.name != clip.layout.name:
        stored = f"frames are stored as {encoding.layout.name} instead of {clip.layout.name}"
        callbacks.warn("pixel_format", f"{stored}, which {encoding.encoder} does not support")
    for text in _lost_metadata(clip, encoding):
        callbacks.warn("metadata_lost", text)
    folder, times = SegmentFolder(target), StageTimes()
    with _kept_if_worth(folder), lock_folder(folder.path):
        finished = folder.begin(_identity(request, encoding, settings))
        size = clip.layout.width, clip.layout.height
        layout = replace(encoding.layout, width=size[0], height=size[1])
        context = FrameStreamContext(layout, clip, callbacks, times)
        writer = SegmentWriter(folder, encoding, _segment_frames(encoding, settings), finished)
        with closing(writer):
            source = _frame_source(request, settings, context, finished)
            sink = SideBySideWriter(writer, layout, turns) if settings.video.compare else writer
            stream_frames(source, sink, restorer, settings, context)
            writer.finish()
        began = time.monotonic()
        mux_input = _mux_input(request, target, settings, trial)
        callbacks.publish(_mux(mux_input, folder, writer.segments, target.name))
        times.add("encode", began)
    folder.remove()
    return times


def _lost_metadata(clip: Clip, encoding: Encoding) -> Iterator[str]:
    """Yield what the result does not have of the HDR metadata."""
    if clip.hdr.dynamic:
        yield f"{clip.hdr.dynamic} metadata cannot be kept; the result is HDR without it"
    is_static = bool(clip.hdr.mastering or clip.hdr.light)
    if is_static and not keeps_hdr(encoding.encoder):
        yield f"{encoding.encoder} does not store the HDR metadata; use --codec hevc or av1"


@contextmanager
def _kept_if_worth(folder: SegmentFolder) -> Iterator[None]:
    """Remove the folder after an error that left nothing to resume from."""
    try:
        yield
    except OutputLockedError:
        raise  # it is the folder of another run
    except BaseException:
        folder.remove_if_empty()
        raise


def _restore_to_pipe(
    request: ClipRequest,
    sink: ByteSink,
    restorer: Restorer,
    settings: Settings,
    callbacks: ClipCallbacks,
) -> StageTimes:
    """Restore a video into a pipe, as y4m."""
    clip = request.clip
    if clip.layout.alpha:
        raise DecodeUnsupportedError(
            "transparent video (y4m holds no transparency)",
            hint="add --set output.flatten=black, or write a file",
        )
    context = FrameStreamContext(clip.layout, clip, callbacks, StageTimes())
    writer = Y4mWriter(sink, clip, clip.layout)
    source = _frame_source(request, settings, context, [])
    stream_frames(source, writer, restorer, settings, context)
    return context.times


def _frame_source(
    request: ClipRequest, settings: Settings, context: FrameStreamContext, finished: list[Segment]
) -> FrameSource:
    if request.pipe.source is not None:
        return PipeFrames(request.pipe.source, context.layout, request.time_range)
    assert request.source is not None
    flatten = settings.output.flatten
    file = FileRange(request.source, request.clip, request.time_range, context.layout, flatten)
    # The last finished frame is always read again: it shows whether the source is the same.
    frames = max(1, temporal_context(deflicker_settings(settings)))
    return FileFrames(file, settings.video, finished, frames, context.callbacks.warn)


def _mux_input(request: ClipRequest, target: Path, settings: Settings, trial: MuxTrial) -> MuxInput:
    is_copied = settings.video.streams != "none" and request.clip.container != DEMUXER
    copied_from = request.source if is_copied else None
    traits = container_traits(target, request.clip.container)
    return MuxInput(request.clip, copied_from, request.time_range, traits, trial.left_out)


def _mux(mux_input: MuxInput, folder: SegmentFolder, segments: list[Segment], name: str) -> Path:
    """Write the segments and the copied streams into one file; compare it with the source."""
    if not segments:
        raise DecodeUnsupportedError(
            "no frame in this time range",
            hint="compare --from and --to with the length of the video",
        )
    encoded = EncodedSegments([folder.path_of(number) for number in range(len(segments))], segments)
    part = temporary_path(folder.path / name)
    result = assemble(mux_input, encoded, part)
    verify(mux_input, encoded, part, result)
    return part


def _identity(request: ClipRequest, encoding: Encoding, settings: Settings) -> dict[str, str]:
    """Return everything that determines the frames: a run resumes only from equal segments."""
    time_range = request.time_range
    return {
        "source": _source_identity(request.source),
        "recipe": request.fingerprint,
        "cut": f"{time_range.begin} {time_range.end}",
        "encoding": repr(encoding),
        "video": repr(settings.video),
        "libraries": f"av {version('av')}",
    }


def _source_identity(file: Path | None) -> str:
    if file is None:
        return os.urandom(8).hex()  # a pipe cannot be read again, so no run resumes from it
    identity = identity_of(file)
    return f"{identity.st_size} {identity.st_mtime_ns}"


def _segment_frames(encoding: Encoding, settings: Settings) -> int:
    wanted = round(settings.video.segment_seconds * encoding.rate)
    return max(2, min(wanted, _MAX_SEGMENT_FRAMES))
