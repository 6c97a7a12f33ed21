"""Streams besides the frames: which containers hold them, how they are copied and compared."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from varfix.engine.errors import PlanError
from varfix.engine.formats import CONTAINERS

if TYPE_CHECKING:
    from av import Packet
    from av.audio.codeccontext import AudioCodecContext
    from av.stream import Stream

ISO: Final = ("mp4", "mov")
MATROSKA: Final = ("matroska", "webm")
TIMECODE: Final = "timecode"
_DISCARD_ALL: Final = 48  # AVDISCARD_ALL: titles of chapters, which are copied as chapters
_ATTACHED_PICTURE: Final = 0x400
# Tags in which a container or encoder describes itself; wrong in a copy.
_TECHNICAL_TAGS: Final = frozenset(
    {
        "major_brand",
        "minor_version",
        "compatible_brands",
        "encoder",
        "vendor_id",
        "duration",
        "bps",
        "number_of_frames",
        "number_of_bytes",
    }
)
# Streams whose packets a container splits or wraps differently if they lack a header.
_REPACKETED: Final = frozenset({"aac", "h264", "hevc"})
_EMPTY_TEXT: Final = b"\0\0"
# FFmpeg's usual order of speakers, by their number.
_LAYOUTS: Final = ("", "mono", "stereo", "2.1", "4.0", "5.0", "5.1", "6.1", "7.1")

# Whether a stream is an attachment, and its number among the attachments or the other streams.
StreamKey = tuple[bool, int]


@dataclass(frozen=True)
class ContainerTraits:
    """The streams that a container can hold.

    Attributes:
        muxer: FFmpeg's name of the muxer.
        codecs: FFmpeg's names of the encoders and decoders with identifiers in the container.
        origin: FFmpeg's names of the source's container, separated by commas.
    """

    muxer: str
    codecs: frozenset[str]
    origin: str

    @property
    def keeps_data(self) -> bool:
        """Whether data tracks of the source can be kept: only from QuickTime to QuickTime."""
        return self.muxer in ISO and self.origin.startswith("mov")


def container_traits(target: Path, origin: str) -> ContainerTraits:
    """Return the traits of the container of a file name.

    Raises:
        PlanError: varfix does not write files of this extension.
    """
    import av

    muxer = CONTAINERS.get(target.suffix.lower())
    if muxer is None:
        raise PlanError(
            f"{target}: not a video container that varfix writes",
            hint=f"choose a file name that ends in {', '.join(CONTAINERS)}",
        )
    with av.open(io.BytesIO(), "w", format=muxer) as container:
        return ContainerTraits(muxer, frozenset(container.supported_codecs), origin)


def describe(stream: Stream) -> str:
    """Describe a stream for messages: `stream 3 (subtitle, subrip, eng)`."""
    codec = stream.codec_context.name if stream.codec_context else ""
    language = stream.metadata.get("language", "")
    parts = [stream.type, codec, "" if language == "und" else language]
    return f"stream {stream.index} ({', '.join(part for part in parts if part)})"


def is_part_of_chapters(stream: Stream) -> bool:
    """Return whether a stream holds only the titles of chapters."""
    return int(stream.discard) == _DISCARD_ALL


def is_attachment(stream: Stream) -> bool:
    """Return whether a stream is a file in the container, such as a font or a cover image."""
    return stream.type == "attachment" or is_cover(stream)


def is_cover(stream: Stream) -> bool:
    """Return whether a stream is a cover image."""
    return bool(stream.disposition & _ATTACHED_PICTURE)


def is_timecode(stream: Stream) -> bool:
    """Return whether a stream is a timecode track: one packet, the number of the first frame."""
    return stream.type == "data" and TIMECODE in stream.metadata


def keyed(streams: Iterable[Stream]) -> Iterator[tuple[StreamKey, Stream]]:
    """Yield the streams of a container with their keys.

    Containers move attachments behind all other streams, and add streams for chapters and
    timecodes: a number in the container would not identify a copied stream.
    """
    numbers = {True: 0, False: 0}
    for stream in streams:
        if is_part_of_chapters(stream) or is_timecode(stream):
            continue
        kind = is_attachment(stream)
        yield (kind, numbers[kind]), stream
        numbers[kind] += 1


def content_tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the tags without those in which a container or encoder describes itself."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower().partition("-")[0] not in _TECHNICAL_TAGS
        and not key.startswith("_STATISTICS")
    }


def set_layout(context: AudioCodecContext) -> None:
    """Set the usual order of speakers where the source gives only their number.

    AVI, DV and many recordings of uncompressed sound store no order; MP4 does not accept that.
    """
    channels = context.layout.nb_channels
    if context.layout.name.endswith(" channels") and 0 < channels < len(_LAYOUTS):
        context.layout = _LAYOUTS[channels]


class StreamDigest:
    """Digest of a stream's bytes, however they are split into packets.

    Attributes:
        size: Bytes so far.
        first: Time of the first packet in seconds; None without one.
    """

    def __init__(self, stream: Stream, form: str | None = None) -> None:
        """Begin without bytes.

        Args:
            stream: The stream.
            form: The codec that its packets are converted to; None if they are copied.
        """
        self.size = 0
        self.first: Fraction | None = None
        self._hash = hashlib.sha256()
        context = stream.codec_context
        name = form or (context.codec.canonical_name if context else "")
        self._text = name == "mov_text"
        # Headers move from the packets into the container.
        self._headers_move = name in _REPACKETED and not (context and context.extradata)

    def add(self, packet: Packet[Any]) -> None:
        """Add a packet."""
        data = bytes(packet)
        if self._text and data == _EMPTY_TEXT:
            return  # containers fill gaps with these
        if self.first is None and packet.pts is not None:
            self.first = packet.pts * packet.time_base
        self.add_bytes(data)

    def add_bytes(self, data: bytes) -> None:
        """Add the bytes of a packet or an attachment."""
        self.size += len(data)
        self._hash.update(data)

    def same_as(self, other: StreamDigest | None) -> bool:
        """Return whether another stream has equal bytes; if headers move, whether it exists."""
        if other is None:
            return False
        return self._headers_move or self._hash.digest() == other._hash.digest()
