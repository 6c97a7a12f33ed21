"""Restores a clip: decoding, restoring and encoding at the same time, segment by segment.

What is finished is kept (`video_segments`), so that the same command goes on after any kill; the
result has its final name only when it is complete and compared with the source (`video_mux`).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Final

from varfix.engine.errors import (
    DecodeError,
    DecodeUnsupportedError,
    DiskFullError,
    EncodeError,
    PlanError,
)
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.settings.types import Settings
from varfix.engine.system.atomic import part_path, translated
from varfix.engine.system.folder_lock import exclusive
from varfix.engine.video.clip import (
    NO_PIPE,
    ByteSink,
    Clip,
    Frame,
    FrameStream,
    Layout,
    Pipe,
    Samples,
    TimeRange,
)
from varfix.engine.video.deflicker import temporal_context
from varfix.engine.video.frame_pipeline import (
    ClipCallbacks,
    FrameSource,
    FrameStreamContext,
    StageTimes,
    deflicker_settings,
    stream_frames,
)
from varfix.engine.video.mux import EncodedSegments, MuxInput, assemble
from varfix.engine.video.pixel_formats import converted
from varfix.engine.video.reader import ClipReader, ReadOptions, checksum, tick_at
from varfix.engine.video.segments import Segment, SegmentFolder
from varfix.engine.video.streams import container_traits, list_unsupported
from varfix.engine.video.verify import verify
from varfix.engine.video.writer import Encoding, SegmentEncoder, count_frames, encoding_for
from varfix.engine.video.y4m import Y4mWriter

_LONGEST_SEGMENT: Final = 1500


@dataclass(frozen=True)
class ClipJob:
    """A clip to restore.

    Attributes:
        source: the file.
        target: file to write.
        clip: the header.
        cut: the part that is wanted.
        recipe: digest of model and settings.
        pipe: ends that are no files; `source` or `target` is then only a name.
    """

    source: Path
    target: Path
    clip: Clip
    cut: TimeRange
    recipe: str
    pipe: Pipe = NO_PIPE


def restore_clip(
    job: ClipJob, restorer: Restorer, settings: Settings, hooks: ClipCallbacks
) -> StageTimes:
    """Restore a clip and publish it.

    Raises:
        Interrupted: `hooks.stopped` became true; what is finished is kept.
        PlanError: The encoder or container asked for cannot hold the clip.
        ItemError: The clip is damaged, or the model fails on a frame.
        OutputError: The disk is full, or refuses; what is finished is kept.
        OutputLockedError: Another run makes this file.
        DeviceError: The device failed.
    """
    if job.pipe.target is not None:
        return _streamed(job, job.pipe.target, restorer, settings, hooks)
    traits = container_traits(job.target, job.clip.container)
    copied = None if job.pipe.source is not None else job.source
    lost = list_unsupported(traits, job.clip, copied, settings.video)
    if lost:
        raise PlanError(f"{job.target.suffix[1:]} cannot hold {', '.join(lost)}")
    encoding = encoding_for(job.clip, settings.video)
    if encoding.layout.name != job.clip.layout.name:
        kind = f"frames are stored as {encoding.layout.name} instead of {job.clip.layout.name}"
        hooks.warn("pixel_format", f"{kind}, which {encoding.encoder} does not take")
    folder, spent = SegmentFolder(job.target), StageTimes()
    with exclusive(folder.path):
        done = folder.begin(_identity(job, encoding, settings))
        flow = FrameStreamContext(encoding.layout, job.clip, hooks, spent)
        making = SegmentWriter(folder, encoding, _segment_frames(encoding, settings), done)
        with closing(making):
            stream_frames(_source(job, settings, flow, done), making, restorer, settings, flow)
            making.finish()
        began = time.monotonic()
        copies = copied if settings.video.streams == "copy" else None
        wrapping = MuxInput(job.clip, copies, job.cut, traits)
        hooks.publish(_joined(wrapping, folder, making.notes, job.target.name, hooks))
        spent.timed("encode", began)
    folder.remove()
    return spent


def _streamed(
    job: ClipJob, out: ByteSink, restorer: Restorer, settings: Settings, hooks: ClipCallbacks
) -> StageTimes:
    """Restore a clip into a pipe, as y4m."""
    layout = job.clip.layout
    flow = FrameStreamContext(layout, job.clip, hooks, StageTimes())
    sink = Y4mWriter(out, job.clip, layout)
    stream_frames(_source(job, settings, flow, []), sink, restorer, settings, flow)
    return flow.spent


def _source(
    job: ClipJob, settings: Settings, flow: FrameStreamContext, done: list[Segment]
) -> FrameSource:
    if job.pipe.source is not None:
        return PipeFrames(job.pipe.source, flow.layout, job.cut)
    return FileFrames(job, settings, flow, done)


def _joined(
    wrapping: MuxInput, folder: SegmentFolder, notes: list[Segment], name: str, hooks: ClipCallbacks
) -> Path:
    """Put the segments together, and compare the result with the source."""
    if not notes:
        raise DecodeUnsupportedError(
            "holds no frame in this part", hint="check --from, --to and the clip's length"
        )
    pieces = EncodedSegments([folder.place(number) for number in range(len(notes))], notes)
    part = part_path(folder.path / name)
    wrapped = assemble(wrapping, pieces, part)
    verify(wrapping, pieces, part, wrapped)
    for text in wrapped.lost:
        hooks.warn("stream_lost", f"{text} cannot be kept in {name}")
    return part


def _identity(job: ClipJob, encoding: Encoding, settings: Settings) -> dict[str, str]:
    """All that decides the frames: only segments of the same can be gone on with."""
    return {
        "source": _fingerprint(job),
        "recipe": job.recipe,
        "cut": f"{job.cut.begin} {job.cut.end}",
        "encoding": repr(encoding),
        "video": repr(settings.video),
        "libraries": f"av {version('av')}",
    }


def _fingerprint(job: ClipJob) -> str:
    if job.pipe.source is not None:
        return os.urandom(8).hex()  # what came through a pipe does not come again
    facts = job.source.stat()
    return f"{facts.st_size} {facts.st_mtime_ns}"


def _segment_frames(encoding: Encoding, settings: Settings) -> int:
    wanted = round(settings.video.segment * encoding.rate)
    return max(2, min(wanted, _LONGEST_SEGMENT))


class PipeFrames:
    """The frames of a pipe; none of them can be had again."""

    begin = 0

    def __init__(self, stream: FrameStream, layout: Layout, cut: TimeRange) -> None:
        self._stream, self._layout, self._cut = stream, layout, cut

    @property
    def total(self) -> int:
        """Not known before the end."""
        return 0

    def frames(self) -> Iterator[tuple[int, Frame]]:
        """Yield the frames, in the layout that is wanted."""
        clip, cut = self._stream.clip, self._cut
        first = 0 if cut.begin is None else tick_at(clip, cut.begin)
        end = None if cut.end is None else tick_at(clip, cut.end)
        number = 0
        for frame in self._stream.frames():
            if end is not None and frame.pts >= end:
                return
            if frame.pts >= first:
                planes = converted(frame.planes, clip.layout, self._layout, clip.tags.matrix)
                yield number, replace(frame, planes=planes)
                number += 1


class FileFrames:
    """The frames of a file, from where the finished segments end."""

    def __init__(
        self, job: ClipJob, settings: Settings, flow: FrameStreamContext, done: list[Segment]
    ) -> None:
        video = settings.video
        self._clip, self._cut = job.clip, job.cut
        warn = _counted(flow.hooks.warn)
        reading = ReadOptions(flow.layout, video.interlaced, video.damaged, warn)
        self._reader = ClipReader(job.source, job.clip, reading)
        self._times = [at for segment in done for at, _ in segment.times]
        self._last = done[-1].last if done else 0
        self._lead = max(1, temporal_context(deflicker_settings(settings)))

    @property
    def begin(self) -> int:
        """Number of the first frame that is not finished."""
        return len(self._times)

    @property
    def total(self) -> int:
        """Frames in the part that is wanted, as far as the header tells."""
        return self._clip.frames_in(self._cut)

    def frames(self) -> Iterator[tuple[int, Frame]]:
        """Yield frames, beginning with those that the first unfinished one depends on."""
        cut = self._cut
        first = None if cut.begin is None else tick_at(self._clip, cut.begin)
        end = None if cut.end is None else tick_at(self._clip, cut.end)
        if not self._times:
            yield from enumerate(self._reader.frames(first, end))
            return
        begin = max(0, self.begin - self._lead)
        frames = self._reader.frames(self._times[begin], end)
        head = self._head(frames, self.begin - begin)
        if not self._known(head, begin):
            # The file cannot be entered there in this way; then the long way.
            frames.close()
            frames = self._reader.frames(first, end)
            self._head(frames, begin)
            head = self._head(frames, self.begin - begin)
            if not self._known(head, begin):
                raise DecodeError(
                    "does not decode as it did before",
                    hint="remove what is left of the last run, the folder"
                    " *.varfix beside the result, and run the same command again",
                )
        yield from enumerate(head, begin)
        yield from enumerate(frames, self.begin)

    def _head(self, frames: Iterator[Frame], count: int) -> list[Frame]:
        return [frame for _, frame in zip(range(count), frames, strict=False)]

    def _known(self, head: list[Frame], begin: int) -> bool:
        times = [frame.pts for frame in head]
        return times == self._times[begin:] and checksum(head[-1]) == self._last


def _counted(warn: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """Tell the first few warnings of a kind: a bad clip has one for every frame."""
    told: Counter[str] = Counter()

    def once(code: str, text: str) -> None:
        told[code] += 1
        if told[code] <= 3:
            warn(code, text + ("; more of these are not told" if told[code] == 3 else ""))

    return once


class SegmentWriter:
    """Writes frames into segments.

    Attributes:
        notes: of all finished segments.
    """

    def __init__(
        self, folder: SegmentFolder, encoding: Encoding, length: int, done: list[Segment]
    ) -> None:
        self.notes = list(done)
        self._folder, self._encoding, self._length = folder, encoding, length
        self._writer: SegmentEncoder | None = None
        self._times: list[tuple[int, int]] = []
        self._last = 0

    @property
    def _part(self) -> Path:
        return self._folder.path / "segment.part"

    def add(self, frame: Frame, planes: tuple[Samples, ...]) -> None:
        """Encode a frame; a segment that is full is finished."""
        with translated(self._folder.path, self._encoding.layout.frame_bytes):
            if self._writer is None:
                self._writer = SegmentEncoder(self._part, self._encoding)
            self._writer.add(planes)
        self._times.append((frame.pts, frame.duration))
        self._last = checksum(frame)
        if len(self._times) == self._length:
            self._close_segment()

    def finish(self) -> None:
        """Finish the last segment."""
        if self._times:
            self._close_segment()

    def close(self) -> None:
        """Let go of the file; what is not finished is lost."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _close_segment(self) -> None:
        writer = self._writer
        assert writer is not None
        with translated(self._folder.path, self._encoding.layout.frame_bytes):
            writer.finish()
            if count_frames(self._part) != len(self._times):
                raise self._incomplete()
        note = self._folder.note(self._part, self._times, writer.delay, self._last)
        self._folder.add(len(self.notes), self._part, note)
        self.notes.append(note)
        self._writer, self._times = None, []

    def _incomplete(self) -> DiskFullError | EncodeError:
        """A segment lacks frames: mostly for want of space, which libraries do not always tell."""
        import psutil

        size = self._part.stat().st_size
        if psutil.disk_usage(str(self._folder.path)).free < max(size, 1 << 20):
            return DiskFullError(
                f"{self._folder.path.parent}: no space left",
                hint="free space and run the same command again",
            )
        return EncodeError(f"{self._encoding.encoder} lost frames")
