"""Copies streams of a source into a result without change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

from varfix.engine.video.containers import open_container
from varfix.engine.video.mux.iso_boxes import track_descriptions
from varfix.engine.video.mux.mux_input import MuxInput, MuxResult
from varfix.engine.video.mux.streams import (
    ISO,
    MATROSKA,
    StreamDigest,
    StreamKey,
    content_tags,
    is_attachment,
    is_cover,
    is_part_of_chapters,
    is_timecode,
    set_layout,
)
from varfix.engine.video.mux.subtitles import SubtitleConverter, form_for

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer, OutputContainer
    from av.stream import Stream

# The data codec by whose identifier MP4 holds any bytes; the source's description replaces it.
_ANY_DATA: Final = "bin_data"
# Name and type of cover images that the source stores without.
_COVER_TYPES: Final = {
    "mjpeg": ("cover.jpg", "image/jpeg"),
    "png": ("cover.png", "image/png"),
    "gif": ("cover.gif", "image/gif"),
    "bmp": ("cover.bmp", "image/bmp"),
    "webp": ("cover.webp", "image/webp"),
}
_MAX_TRIAL_PACKETS: Final = 600  # in all, where a stream has its first packet late


@dataclass
class StreamCopies:
    """The streams that are copied.

    Attributes:
        mux_input: The streams to copy.
        source: The opened source.
        result: Receives digests and descriptions.
    """

    mux_input: MuxInput
    source: InputContainer
    result: MuxResult
    _copies: dict[int, Stream] = field(default_factory=dict)
    _keys: dict[int, StreamKey] = field(default_factory=dict)
    _converters: dict[int, SubtitleConverter] = field(default_factory=dict)

    def is_copied(self, stream: Stream) -> bool:
        """Return whether a stream is copied, as a stream."""
        is_written = is_timecode(stream) and self.mux_input.traits.muxer in ISO
        is_out = stream.index in self.mux_input.left_out
        is_main = stream.index == self.mux_input.clip.stream
        return not (is_main or is_out or is_written or is_part_of_chapters(stream))

    @property
    def needs_any_codec(self) -> bool:
        """Whether a stream has a codec that Matroska holds by its Windows identifier only."""
        known = self.mux_input.traits.codecs
        return self.mux_input.traits.muxer == "matroska" and any(
            stream.codec_context is not None and stream.codec_context.codec.name not in known
            for stream in self.source.streams
            if self.is_copied(stream)
            and not is_cover(stream)
            and form_for(stream, self.mux_input.traits.muxer) is None
        )

    @property
    def has_data(self) -> bool:
        """Whether data tracks are copied."""
        return any(self.is_copied(stream) for stream in self.source.streams.data)

    def add(self, stream: Stream, out: OutputContainer, key: StreamKey) -> None:
        """Create the copy of a stream.

        Args:
            stream: A stream of the source.
            out: The container to write.
            key: Key of the copy.

        Raises:
            ValueError: The container does not hold it.
        """
        from av.audio.stream import AudioStream

        copy: Stream
        form = form_for(stream, self.mux_input.traits.muxer)
        digest = self.result.digests[key] = StreamDigest(stream, form)
        if is_attachment(stream) and self.mux_input.traits.muxer in MATROSKA:
            self._attach(stream, out, digest)
            return
        if form is not None:
            converter = self._converters[stream.index] = SubtitleConverter(stream, form, out)
            copy = converter.copy
            copy.disposition = stream.disposition
        elif stream.type == "data":
            # QuickTime stores any bytes under any identifier, MP4 only registered identifiers.
            is_free = self.mux_input.traits.muxer == "mov"
            copy = (
                out.add_stream_from_template(stream) if is_free else out.add_data_stream(_ANY_DATA)
            )
            description = track_descriptions(self._path)[stream.index]
            assert description is not None
            self.result.descriptions[copy.index] = description
        else:
            copy = out.add_stream_from_template(stream, opaque=True)
            copy.disposition = stream.disposition
        if isinstance(copy, AudioStream):
            set_layout(copy.codec_context)
        copy.time_base = stream.time_base
        copy.metadata.update(content_tags(stream.metadata))
        self._copies[stream.index], self._keys[stream.index] = copy, key

    def packets(self, first: int) -> Iterator[tuple[Fraction, Packet[Any]]]:
        """Yield decoding time in seconds, and packet, of the copied streams.

        Args:
            first: Tick of the first frame.
        """
        if not self._copies:
            return
        kept = [self.source.streams[index] for index in self._copies]
        begin, end = self.mux_input.limits
        shift = self.mux_input.offset(first) * self.mux_input.clip.time_base
        decoded: dict[int, int] = {}
        for packet in self._limited(self.source.demux(kept)):
            tick = packet.time_base
            stamp = _decoding_tick(packet, round((begin or 0) / tick), decoded)
            at = (packet.pts or stamp) * tick
            if (begin is not None and at < begin) or (end is not None and at >= end):
                continue
            offset = round(shift / tick)
            index = packet.stream.index
            if index in self._converters:
                converted = self._converters[index].converted(packet)
                if converted is None:
                    continue
                packet = converted
            packet.stream = self._copies[index]
            packet.dts = stamp - offset
            packet.pts = (stamp if packet.pts is None else packet.pts) - offset
            self.result.digests[self._keys[index]].add(packet)
            yield packet.dts * tick, packet

    @property
    def _path(self) -> Any:
        assert self.mux_input.source is not None
        return self.mux_input.source

    def _attach(self, stream: Stream, out: OutputContainer, digest: StreamDigest) -> None:
        """Store a font or a cover image as an attachment."""
        from av.stream import AttachmentStream

        if isinstance(stream, AttachmentStream):
            data, name, kind = bytes(stream.data), f"attachment-{stream.index}", ""
        else:
            codec = stream.codec_context.codec.canonical_name
            data = self._first_packet(stream.index)
            name, kind = _COVER_TYPES.get(codec, (f"cover.{codec}", f"image/{codec}"))
        digest.add_bytes(data)
        tags = content_tags(stream.metadata)
        attachment = out.add_attachment(
            tags.pop("filename", name),
            tags.pop("mimetype", kind or "application/octet-stream"),
            data,
        )
        attachment.metadata.update(tags)

    def _first_packet(self, index: int) -> bytes:
        with open_container(self._path) as container:
            packets = container.demux(container.streams[index])
            return next((bytes(packet) for packet in packets if packet.size), b"")

    def _limited(self, packets: Iterator[Packet[Any]]) -> Iterator[Packet[Any]]:
        """Yield the packets with data; in a trial only the first ones of each stream."""
        limit = self.mux_input.packets
        counts = dict.fromkeys(self._copies, 0)
        for number, packet in enumerate(packets):
            if limit is not None and (
                min(counts.values()) >= limit or number >= _MAX_TRIAL_PACKETS
            ):
                return
            index = packet.stream.index
            if packet.size and (limit is None or counts[index] < limit):
                counts[index] += 1
                yield packet


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
        # Matroska stores no decoding times; FFmpeg's guesses can be missing or unordered.
        before = last.get(number, stamp - 1)
        stamp = before + 1 if packet.dts is None else max(before + 1, stamp)
    last[number] = stamp
    return stamp
