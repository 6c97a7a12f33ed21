"""Muxes a restored video: its frames at their original times, all other streams copied.

Nothing is encoded here. The result is compared with the source (`varfix.engine.video.mux.verify`)
before it gets its final name.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from varfix.engine.errors import EncodeError
from varfix.engine.system.atomic import translate_os_errors
from varfix.engine.video.containers import open_container
from varfix.engine.video.mux.copies import StreamCopies
from varfix.engine.video.mux.mux_input import EncodedSegments, MuxInput, MuxResult
from varfix.engine.video.mux.output import Additions, OutputForm, open_output
from varfix.engine.video.mux.streams import ISO, TIMECODE, content_tags, is_attachment

if TYPE_CHECKING:
    from av import Packet, VideoStream
    from av.container import InputContainer, OutputContainer
    from av.container.core import Chapter
    from av.stream import Stream


def assemble(mux_input: MuxInput, encoded: EncodedSegments, part: Path) -> MuxResult:
    """Write frames and copied streams into one file.

    Args:
        mux_input: Copied streams and container.
        encoded: The frames.
        part: File to write.

    Raises:
        EncodeError: The container rejects a stream.
        OutputError: The disk is full, or writing fails.
        SourceReadError: The source cannot be read any more.
    """
    import av.error

    size = sum(segment.size for segment in encoded.segments)
    with ExitStack() as stack, translate_os_errors(part, size):
        source = None
        if mux_input.source is not None:
            source = stack.enter_context(open_container(mux_input.source))
        try:
            return _Assembly(mux_input, encoded, source).write(part)
        except (av.error.FFmpegError, ValueError) as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise EncodeError(f"cannot be muxed ({error})") from error


class _Assembly:
    """Writes one file."""

    def __init__(
        self, mux_input: MuxInput, encoded: EncodedSegments, source: InputContainer | None
    ) -> None:
        self._input, self._encoded, self._source = mux_input, encoded, source
        self._times = encoded.times
        self._is_iso = mux_input.traits.muxer in ISO
        self._offset = mux_input.offset(self._times[0][0])
        self._done = MuxResult()
        self._copies = None
        if source is not None:
            self._copies = StreamCopies(mux_input, source, self._done)

    def write(self, part: Path) -> MuxResult:
        form = self._form()
        chapters = self._chapters()
        with open_output(part, form, self._input.clip) as out:
            with open_container(self._encoded.paths[0]) as first:
                main = self._streams(first.streams.video[0], out)
            additions = Additions(self._input.clip, main.index, chapters)
            if self._source is not None:
                out.metadata.update(content_tags(self._source.metadata))
                out.set_chapters(chapters)
            with ExitStack() as stack:
                frames = self._frames(main)
                stack.callback(frames.close)
                copied = self._copies.packets(self._times[0][0]) if self._copies else iter(())
                for _, packet in heapq.merge(frames, copied, key=lambda pair: pair[0]):
                    out.mux(packet)
        additions.write(part, form, self._done)
        return self._done

    def _form(self) -> OutputForm:
        muxer = self._input.traits.muxer
        if self._source is None or self._copies is None:
            return OutputForm(muxer)
        return OutputForm(
            muxer,
            any_codec=self._copies.needs_any_codec,
            has_data=muxer in ISO and self._copies.has_data,
            dotted_tags=any("." in key for key in self._source.metadata),
        )

    def _streams(self, template: VideoStream, out: OutputContainer) -> VideoStream:
        """Create the streams in the source's order; return the stream of the frames."""
        if self._source is None or self._copies is None:
            return self._main(template, None, out)
        main, numbers = None, {True: 0, False: 0}
        for stream in self._source.streams:
            kind = is_attachment(stream)
            if stream.index == self._input.clip.stream:
                main = self._main(template, stream, out)
            elif self._copies.is_copied(stream):
                self._copies.add(stream, out, (kind, numbers[kind]))
            else:
                continue
            numbers[kind] += 1
        assert main is not None
        return main

    def _main(
        self, template: VideoStream, source: Stream | None, out: OutputContainer
    ) -> VideoStream:
        clip = self._input.clip
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
        if self._input.is_cut:
            stream.metadata.pop(TIMECODE, None)  # it counts from another frame
        return stream

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
                    if self._is_iso and begin + at == len(self._times) - 1:
                        packet.duration = self._end - self._offset - packet.dts - self._early(delay)
                    yield packet.dts * tick, packet
            begin += len(packets)

    def _decoded_at(self, number: int, delay: int) -> int:
        """Return the decoding tick of the frame at a place in decoding order; never after it."""
        first = self._times[0][0]
        if number >= delay:
            return self._times[number - delay][0]
        if not self._is_iso:
            # These containers store no decoding times, but would move all streams by negative ones.
            return max(self._offset, first - (delay - number))
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

    def _chapters(self) -> list[Chapter]:
        """Return the chapters, moved and cut like the frames."""
        if self._source is None:
            return []
        begin, end = self._input.limits
        shift = self._offset * self._input.clip.time_base
        kept = []
        for chapter in self._source.chapters():
            tick = chapter["time_base"]
            if tick is None:
                continue
            first, last = chapter["start"] * tick, chapter["end"] * tick
            first = first if begin is None else max(first, begin)
            last = last if end is None else min(last, end)
            if last <= first and not self._input.time_range.whole:
                continue
            chapter["start"] = round((first - shift) / tick)
            chapter["end"] = round((last - shift) / tick)
            kept.append(chapter)
        return kept


def pts_of(packet: Packet[Any]) -> int:
    """Return a frame's presentation tick; frames always have one."""
    assert packet.pts is not None
    return packet.pts
