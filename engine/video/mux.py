"""Puts a restored clip together: its frames at their old times, everything else copied untouched.

Nothing is encoded here. What went in is compared with what came out (`video_verify`) before the
file may have its final name.
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
from varfix.engine.system.atomic import translated
from varfix.engine.video.clip import Clip, TimeRange
from varfix.engine.video.probe import av_path, open_container
from varfix.engine.video.segments import Segment
from varfix.engine.video.streams import (
    ISO,
    TIMECODE,
    ContainerTraits,
    StreamDigest,
    copied,
    describe,
    is_timecode,
    untechnical,
)

if TYPE_CHECKING:
    from av import Packet, VideoStream
    from av.container import InputContainer, OutputContainer
    from av.container.core import Chapter
    from av.stream import Stream

# Ticks of a movie's own clock must fit into 32 bits with hours of them.
_FINEST: Final = 1_000_000


@dataclass(frozen=True)
class EncodedSegments:
    """The encoded frames.

    Attributes:
        places: files, in order.
        notes: what is in each.
    """

    places: Sequence[Path]
    notes: Sequence[Segment]

    @property
    def times(self) -> list[tuple[int, int]]:
        """When every frame is shown and for how long, in ticks of the clip."""
        return [time for note in self.notes for time in note.times]


@dataclass(frozen=True)
class MuxInput:
    """What is to be put together.

    Attributes:
        clip: the source's header.
        source: the source; None when there is nothing to copy from it.
        cut: the part of it.
        traits: of the container that is written.
    """

    clip: Clip
    source: Path | None
    cut: TimeRange
    traits: ContainerTraits


@dataclass
class MuxResult:
    """What was put together, to be compared with what came out.

    Attributes:
        frames: number.
        digests: of the copied streams, by their number in the result.
        lost: what the container cannot hold, in words.
    """

    frames: int = 0
    digests: dict[int, StreamDigest] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def assemble(wrapping: MuxInput, pieces: EncodedSegments, part: Path) -> MuxResult:
    """Write frames and copies into one file.

    Args:
        wrapping: what goes with the frames.
        pieces: the frames.
        part: file to write.

    Raises:
        EncodeError: The container does not take it.
        OutputError: The disk is full, or refuses.
        SourceReadError: The source has gone.
    """
    import av
    import av.error

    size = sum(note.size for note in pieces.notes)
    with ExitStack() as stack, translated(part, size):
        source = None
        if wrapping.source is not None:
            source = stack.enter_context(open_container(wrapping.source))
        try:
            out = av.open(
                av_path(part),
                "w",
                format=wrapping.traits.muxer,
                container_options=_options(wrapping, source),
            )
            with out:
                return _Assembly(wrapping, pieces, out, source).write()
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise EncodeError(
                f"cannot be put together ({error})", hint="name a file that ends in .mkv"
            ) from error


def _options(wrapping: MuxInput, source: InputContainer | None) -> dict[str, str]:
    """Options of the container: nothing random in it, times as exact as it can hold them."""
    options = {"fflags": "+bitexact"}
    if wrapping.traits.muxer in ISO:
        flags = "+faststart"
        # Tags with names like com.apple.quicktime.make are kept only in the newer way.
        if source is not None and any("." in key for key in source.metadata):
            flags += "+use_metadata_tags"
        options["movflags"] = flags
        ticks = math.lcm(1000, wrapping.clip.time_base.denominator)
        options["movie_timescale"] = str(
            ticks if ticks <= _FINEST else wrapping.clip.time_base.denominator
        )
    return options


class _Assembly:
    """One file in the making."""

    def __init__(
        self,
        wrapping: MuxInput,
        pieces: EncodedSegments,
        out: OutputContainer,
        source: InputContainer | None,
    ) -> None:
        self._wrapping, self._pieces = wrapping, pieces
        self._out, self._source = out, source
        self._times = pieces.times
        self._offset = offset_of(wrapping)
        self._done = MuxResult(frames=len(self._times))
        self._copies: dict[int, Stream] = {}

    def write(self) -> MuxResult:
        with open_container(self._pieces.places[0]) as first:
            main = self._streams(first.streams.video[0])
        if self._source is not None:
            self._out.metadata.update(untechnical(self._source.metadata))
            self._out.set_chapters(_chapters(self._source, self._wrapping))
        with ExitStack() as stack:
            frames = self._frames(main)
            stack.callback(frames.close)
            for _, packet in heapq.merge(frames, self._others(), key=lambda pair: pair[0]):
                self._out.mux(packet)
        return self._done

    def _streams(self, template: VideoStream) -> VideoStream:
        """Make the streams in the source's order; return that of the frames."""
        if self._source is None:
            return self._main(template, None)
        main = None
        for stream in self._source.streams:
            if stream.index == self._wrapping.clip.stream:
                main = self._main(template, stream)
            else:
                self._copy(stream)
        assert main is not None
        return main

    def _main(self, template: VideoStream, source: Stream | None) -> VideoStream:
        clip, out = self._wrapping.clip, self._out
        stream = out.add_stream_from_template(template, opaque=True)
        stream.time_base = clip.time_base
        context = stream.codec_context
        context.framerate = clip.rate
        if clip.aspect is not None:
            context.sample_aspect_ratio = clip.aspect
        context.color_primaries, context.color_trc = clip.tags.primaries, clip.tags.transfer
        context.colorspace = clip.tags.matrix
        context.color_range = clip.tags.range
        if context.codec.canonical_name == "hevc" and self._wrapping.traits.muxer in ISO:
            context.codec_tag = "hvc1"  # the only one that Apple's players take
        stream.set_display_matrix(clip.display_matrix)
        if source is not None:
            stream.metadata.update(untechnical(source.metadata))
            stream.disposition = source.disposition
        if self._offset:
            stream.metadata.pop(TIMECODE, None)  # that of another frame
        return stream

    def _copy(self, stream: Stream) -> None:
        if is_timecode(stream) and self._wrapping.traits.muxer in ISO:
            # Its writer makes a new one of the frames' tag, and takes no copy.
            if self._offset:
                self._done.lost.append(describe(stream))
            return
        made, why = copied(stream, self._out, self._wrapping.traits)
        if made is None:
            if why:
                self._done.lost.append(why)
            return
        if stream.type != "attachment":
            self._copies[stream.index] = made
            self._done.digests[made.index] = StreamDigest(stream)

    def _frames(self, stream: VideoStream) -> Generator[tuple[Fraction, Packet[Any]], None, None]:
        """The encoded frames with their own times, in the order of decoding."""
        delay = max(note.delay for note in self._pieces.notes)
        tick, begin = self._wrapping.clip.time_base, 0
        for place, note in zip(self._pieces.places, self._pieces.notes, strict=True):
            with open_container(place) as piece:
                packets = [one for one in piece.demux(video=0) if one.pts is not None]
                if len(packets) != len(note.times):
                    raise EncodeError(f"{place.name} holds {len(packets)} frames, not its own")
                ranks = {pts: rank for rank, pts in enumerate(sorted(map(pts_of, packets)))}
                for at, packet in enumerate(packets):
                    pts, lasts = note.times[ranks[pts_of(packet)]]
                    packet.time_base, packet.stream = tick, stream
                    packet.pts, packet.duration = pts - self._offset, lasts
                    packet.dts = self._decoded_at(begin + at, delay) - self._offset
                    if begin + at == len(self._times) - 1:
                        packet.duration = self._end - self._offset - packet.dts - self._early(delay)
                    yield packet.dts * tick, packet
            begin += len(packets)

    def _decoded_at(self, number: int, delay: int) -> int:
        """When a frame, by its place in decoding, is to be decoded, in ticks: never after it."""
        first = self._times[0][0]
        if number >= delay:
            return self._times[number - delay][0]
        if self._wrapping.traits.muxer not in ISO:
            return first  # these containers know no such times, and would move all others instead
        return first - (delay - number) * (self._early(delay) // delay)

    @property
    def _end(self) -> int:
        """Tick at which the last frame ends."""
        at, lasts = self._times[-1]
        return at + lasts

    def _early(self, delay: int) -> int:
        """Ticks before the first frame at which decoding begins.

        A track's length is that of decoding: evenly spaced, it begins whole frames early; else as
        little as possible, so that the last frame can still end when it should.
        """
        lasts = self._times[0][1]
        last_decoded = self._times[-1 - delay][0] if len(self._times) > delay else 0
        return delay * (lasts if self._end - last_decoded > delay * lasts else 1)

    def _others(self) -> Iterator[tuple[Fraction, Packet[Any]]]:
        if self._source is None or not self._copies:
            return
        kept = [self._source.streams[index] for index in self._copies]
        begin, end = _limits(self._wrapping)
        decoded: dict[int, int] = {}
        for packet in self._source.demux(kept):
            if not packet.size:
                continue
            tick = packet.time_base
            stamp = _decoded(packet, round((begin or 0) / tick), decoded)
            if begin is not None and (packet.pts or stamp) * tick < begin:
                continue
            if end is not None and (packet.pts or stamp) * tick >= end:
                continue
            offset = round(self._offset * self._wrapping.clip.time_base / tick)
            stream = self._copies[packet.stream.index]
            self._done.digests[stream.index].add(packet)
            packet.stream = stream
            packet.dts = stamp - offset
            packet.pts = (stamp if packet.pts is None else packet.pts) - offset
            yield packet.dts * tick, packet


def pts_of(packet: Packet[Any]) -> int:
    """When a frame is shown, in ticks; frames always have a time."""
    assert packet.pts is not None
    return packet.pts


def _decoded(packet: Packet[Any], nowhere: int, last: dict[int, int]) -> int:
    """When a packet is to be decoded, in ticks; `nowhere` for cover images, which have no time.

    Args:
        packet: of the source.
        nowhere: for what has no time at all.
        last: times of the packets before it, by stream.
    """
    stamp = packet.dts if packet.dts is not None else packet.pts
    if stamp is None:
        stamp = nowhere
    number = packet.stream.index
    if packet.stream.type == "video":
        # Matroska has no such times: what is guessed instead can begin with none, in disorder.
        before = last.get(number, stamp - 1)
        stamp = before + 1 if packet.dts is None else max(before + 1, stamp)
    last[number] = stamp
    return stamp


def offset_of(wrapping: MuxInput) -> int:
    """Ticks by which a part of a clip moves to the beginning; 0 for a whole clip."""
    if wrapping.cut.begin is None:
        return 0
    clip = wrapping.clip
    return round((wrapping.cut.begin + clip.start) / clip.time_base)


def _limits(wrapping: MuxInput) -> tuple[Fraction | None, Fraction | None]:
    """Begin and end of the part on the clip's own clock, in seconds."""
    cut, start = wrapping.cut, wrapping.clip.start
    return (
        None if cut.begin is None else cut.begin + start,
        None if cut.end is None else cut.end + start,
    )


def _chapters(source: InputContainer, wrapping: MuxInput) -> list[Chapter]:
    """The chapters, moved and cut as the frames are."""
    begin, end = _limits(wrapping)
    kept = []
    for chapter in source.chapters():
        tick = chapter["time_base"]
        if tick is None:
            continue
        first, last = chapter["start"] * tick, chapter["end"] * tick
        first = first if begin is None else max(first, begin)
        last = last if end is None else min(last, end)
        if last <= first and not wrapping.cut.whole:
            continue
        offset = offset_of(wrapping) * wrapping.clip.time_base
        chapter["start"] = round((first - offset) / tick)
        chapter["end"] = round((last - offset) / tick)
        kept.append(chapter)
    return kept
