"""Muxes a restored video: its frames at their original times, all other streams copied.

Nothing is encoded here. The result is compared with the source (`varfix.engine.video.verify`)
before it gets its final name.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from varfix.engine.errors import EncodeError
from varfix.engine.system.atomic import translate_os_errors
from varfix.engine.video.clip import Clip, TimeRange
from varfix.engine.video.probe import av_path, open_container
from varfix.engine.video.segments import Segment
from varfix.engine.video.streams import (
    ISO,
    TIMECODE,
    ContainerTraits,
    StreamDigest,
    content_tags,
    copy_stream,
    describe,
    is_timecode,
)

if TYPE_CHECKING:
    from av import Packet, VideoStream
    from av.container import InputContainer, OutputContainer
    from av.container.core import Chapter
    from av.stream import Stream

# Hours must fit into 32 bits of the movie's own ticks.
_MAX_TIMESCALE: Final = 1_000_000


@dataclass(frozen=True)
class EncodedSegments:
    """The encoded frames.

    Attributes:
        paths: Files of the segments, in order.
        segments: Their descriptions.
    """

    paths: Sequence[Path]
    segments: Sequence[Segment]

    @property
    def times(self) -> list[tuple[int, int]]:
        """Presentation time and duration of every frame, in ticks of the video."""
        return [time for segment in self.segments for time in segment.times]


@dataclass(frozen=True)
class MuxInput:
    """What to write besides the frames.

    Attributes:
        clip: Header of the source.
        source: File to copy other streams from; None to copy nothing.
        time_range: Part of the source.
        traits: Container to write.
    """

    clip: Clip
    source: Path | None
    time_range: TimeRange
    traits: ContainerTraits


@dataclass
class MuxResult:
    """What was written, for comparison with the file.

    Attributes:
        frames: Number of frames.
        digests: Digests of the copied streams by their index in the result.
        lost: Descriptions of the streams that the container cannot hold.
    """

    frames: int = 0
    digests: dict[int, StreamDigest] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def assemble(mux_input: MuxInput, encoded: EncodedSegments, part: Path) -> MuxResult:
    """Write frames and copied streams into one file.

    Args:
        mux_input: What to write besides the frames.
        encoded: The frames.
        part: File to write.

    Raises:
        EncodeError: The container rejects a stream.
        OutputError: The disk is full, or writing fails.
        SourceReadError: The source cannot be read any more.
    """
    import av
    import av.error

    size = sum(segment.size for segment in encoded.segments)
    with ExitStack() as stack, translate_os_errors(part, size):
        source = None
        if mux_input.source is not None:
            source = stack.enter_context(open_container(mux_input.source))
        try:
            out = av.open(
                av_path(part),
                "w",
                format=mux_input.traits.muxer,
                container_options=_options(mux_input, source),
            )
            with out:
                return _Assembly(mux_input, encoded, out, source).write()
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise EncodeError(
                f"cannot be muxed ({error})", hint="choose a file name that ends in .mkv"
            ) from error


def _options(mux_input: MuxInput, source: InputContainer | None) -> dict[str, str]:
    """Return the container's options: deterministic output, times as exact as possible."""
    options = {"fflags": "+bitexact"}
    if mux_input.traits.muxer in ISO:
        flags = "+faststart"
        # Tags such as com.apple.quicktime.make are kept only as metadata tags.
        if source is not None and any("." in key for key in source.metadata):
            flags += "+use_metadata_tags"
        options["movflags"] = flags
        ticks = math.lcm(1000, mux_input.clip.time_base.denominator)
        options["movie_timescale"] = str(
            ticks if ticks <= _MAX_TIMESCALE else mux_input.clip.time_base.denominator
        )
    return options


class _Assembly:
    """Writes one file."""

    def __init__(
        self,
        mux_input: MuxInput,
        encoded: EncodedSegments,
        out: OutputContainer,
        source: InputContainer | None,
    ) -> None:
        self._input, self._encoded = mux_input, encoded
        self._out, self._source = out, source
        self._times = encoded.times
        self._offset = offset_of(mux_input)
        self._done = MuxResult(frames=len(self._times))
        self._copies: dict[int, Stream] = {}

    def write(self) -> MuxResult:
        with open_container(self._encoded.paths[0]) as first:
            main = self._streams(first.streams.video[0])
        if self._source is not None:
            self._out.metadata.update(content_tags(self._source.metadata))
            self._out.set_chapters(_chapters(self._source, self._input))
        with ExitStack() as stack:
            frames = self._frames(main)
            stack.callback(frames.close)
            for _, packet in heapq.merge(frames, self._copied_packets(), key=lambda pair: pair[0]):
                self._out.mux(packet)
        return self._done

    def _streams(self, template: VideoStream) -> VideoStream:
        """Create the streams in the source's order; return the stream of the frames."""
        if self._source is None:
            return self._main(template, None)
        main = None
        for stream in self._source.streams:
            if stream.index == self._input.clip.stream:
                main = self._main(template, stream)
            else:
                self._copy(stream)
        assert main is not None
        return main

    def _main(self, template: VideoStream, source: Stream | None) -> VideoStream:
        clip, out = self._input.clip, self._out
        stream = out.add_stream_from_template(template, opaque=True)
        stream.time_base = clip.time_base
        context = stream.codec_context
        context.framerate = clip.rate
        if clip.aspect is not None:
            context.sample_aspect_ratio = clip.aspect
        context.color_primaries, context.color_trc = clip.tags.primaries, clip.tags.transfer
        context.colorspace = clip.tags.matrix
        context.color_range = clip.tags.range
        if context.codec.canonical_name == "hevc" and self._input.traits.muxer in ISO:
            context.codec_tag = "hvc1"  # the only tag that Apple's players accept
        stream.set_display_matrix(clip.display_matrix)
        if source is not None:
            stream.metadata.update(content_tags(source.metadata))
            stream.disposition = source.disposition
        if self._offset:
            stream.metadata.pop(TIMECODE, None)  # it counts from another frame
        return stream

    def _copy(self, stream: Stream) -> None:
        if is_timecode(stream) and self._input.traits.muxer in ISO:
            # The muxer creates this stream from a tag of the frames, and rejects a copy.
            if self._offset:
                self._done.lost.append(describe(stream))
            return
        copy, lost = copy_stream(stream, self._out, self._input.traits)
        if copy is None:
            if lost:
                self._done.lost.append(lost)
            return
        if stream.type != "attachment":
            self._copies[stream.index] = copy
            self._done.digests[copy.index] = StreamDigest(stream)

    def _frames(self, stream: VideoStream) -> Generator[tuple[Fraction, Packet[Any]], None, None]:
        """Yield the encoded frames with their original times, in decoding order."""
        delay = max(segment.delay for segment in self._encoded.segments)
        tick, begin = self._input.clip.time_base, 0
        for path, segment in zip(self._encoded.paths, self._encoded.segments, strict=True):
            with open_container(path) as container:
                packets = [p for p in container.demux(video=0) if p.pts is not None]
                if len(packets) != len(segment.times):
                    raise EncodeError(
                        f"{path.name} holds {len(packets)} frames, expected {len(segment.times)}"
                    )
                ranks = {pts: rank for rank, pts in enumerate(sorted(map(pts_of, packets)))}
                for at, packet in enumerate(packets):
                    pts, duration = segment.times[ranks[pts_of(packet)]]
                    packet.time_base, packet.stream = tick, stream
                    packet.pts, packet.duration = pts - self._offset, duration
                    packet.dts = self._decoded_at(begin + at, delay) - self._offset
                    if begin + at == len(self._times) - 1:
                        packet.duration = self._end - self._offset - packet.dts - self._early(delay)
                    yield packet.dts * tick, packet
            begin += len(packets)

    def _decoded_at(self, number: int, delay: int) -> int:
        """Return the decoding tick of the frame at a place in decoding order; never after it."""
        first = self._times[0][0]
        if number >= delay:
            return self._times[number - delay][0]
        if self._input.traits.muxer not in ISO:
            return first  # these containers store no decoding times, and would move all others
        return first - (delay - number) * (self._early(delay) // delay)

    @property
    def _end(self) -> int:
        """Tick at which the last frame ends."""
        pts, duration = self._times[-1]
        return pts + duration

    def _early(self, delay: int) -> int:
        """Return how many ticks before the first frame decoding begins.

        A track is as long as its decoding: with evenly spaced frames it begins whole frames early;
        otherwise as little as possible, so that the last frame can still end at its time.
        """
        duration = self._times[0][1]
        last_decoded = self._times[-1 - delay][0] if len(self._times) > delay else 0
        return delay * (duration if self._end - last_decoded > delay * duration else 1)

    def _copied_packets(self) -> Iterator[tuple[Fraction, Packet[Any]]]:
        if self._source is None or not self._copies:
            return
        kept = [self._source.streams[index] for index in self._copies]
        begin, end = _limits(self._input)
        decoded: dict[int, int] = {}
        for packet in self._source.demux(kept):
            if not packet.size:
                continue
            tick = packet.time_base
            stamp = _decoding_tick(packet, round((begin or 0) / tick), decoded)
            if begin is not None and (packet.pts or stamp) * tick < begin:
                continue
            if end is not None and (packet.pts or stamp) * tick >= end:
                continue
            offset = round(self._offset * self._input.clip.time_base / tick)
            stream = self._copies[packet.stream.index]
            self._done.digests[stream.index].add(packet)
            packet.stream = stream
            packet.dts = stamp - offset
            packet.pts = (stamp if packet.pts is None else packet.pts) - offset
            yield packet.dts * tick, packet


def pts_of(packet: Packet[Any]) -> int:
    """Return a frame's presentation tick; frames always have one."""
    assert packet.pts is not None
    return packet.pts


def _decoding_tick(packet: Packet[Any], default: int, last: dict[int, int]) -> int:
    """Return the tick at which to decode a packet.

    Args:
        packet: A packet of the source.
        default: Tick of packets without any time, such as cover images.
        last: Ticks of the preceding packets by stream; updated.
    """
    stamp = packet.dts if packet.dts is not None else packet.pts
    if stamp is None:
        stamp = default
    number = packet.stream.index
    if packet.stream.type == "video":
        # Matroska stores no decoding times: the guessed ones can begin with none, out of order.
        before = last.get(number, stamp - 1)
        stamp = before + 1 if packet.dts is None else max(before + 1, stamp)
    last[number] = stamp
    return stamp


def offset_of(mux_input: MuxInput) -> int:
    """Return the ticks by which a time range moves to the beginning; 0 for a whole video."""
    if mux_input.time_range.begin is None:
        return 0
    clip = mux_input.clip
    return round((mux_input.time_range.begin + clip.start) / clip.time_base)


def _limits(mux_input: MuxInput) -> tuple[Fraction | None, Fraction | None]:
    """Return begin and end of the time range on the video's own clock, in seconds."""
    time_range, start = mux_input.time_range, mux_input.clip.start
    return (
        None if time_range.begin is None else time_range.begin + start,
        None if time_range.end is None else time_range.end + start,
    )


def _chapters(source: InputContainer, mux_input: MuxInput) -> list[Chapter]:
    """Return the chapters, moved and cut like the frames."""
    begin, end = _limits(mux_input)
    kept = []
    for chapter in source.chapters():
        tick = chapter["time_base"]
        if tick is None:
            continue
        first, last = chapter["start"] * tick, chapter["end"] * tick
        first = first if begin is None else max(first, begin)
        last = last if end is None else min(last, end)
        if last <= first and not mux_input.time_range.whole:
            continue
        offset = offset_of(mux_input) * mux_input.clip.time_base
        chapter["start"] = round((first - offset) / tick)
        chapter["end"] = round((last - offset) / tick)
        kept.append(chapter)
    return kept
