"""Streams besides the frames: which containers hold them, how they are copied and compared."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from varfix.engine.errors import PlanError
from varfix.engine.formats import CONTAINERS
from varfix.engine.settings.types import VideoSettings
from varfix.engine.video.clip import Clip
from varfix.engine.video.probe import open_container
from varfix.engine.video.writer import encoding_for

if TYPE_CHECKING:
    from av import Packet
    from av.container import OutputContainer
    from av.stream import Stream

ISO: Final = ("mp4", "mov")
TIMECODE: Final = "timecode"
_DISCARD_ALL: Final = 48  # AVDISCARD_ALL: titles of chapters, which are copied as chapters
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
# Encoders that write the pixel aspect ratio into their own stream. The others leave it to the
# container, and FFmpeg's Matroska muxer does not receive it.
_STORE_ASPECT: Final = ("264", "265", "hevc", "mpeg")
_EMPTY_TEXT: Final = b"\0\0"


@dataclass(frozen=True)
class ContainerTraits:
    """What a container to write can hold.

    Attributes:
        muxer: FFmpeg's name of the muxer.
        codecs: FFmpeg's names of the encoders and decoders whose streams it holds.
        origin: FFmpeg's names of the source's container, separated by commas.
    """

    muxer: str
    codecs: frozenset[str]
    origin: str


def container_traits(target: Path, origin: str) -> ContainerTraits:
    """Return what the container of a file name can hold.

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


def list_unsupported(
    traits: ContainerTraits, clip: Clip, source: Path | None, video: VideoSettings
) -> list[str]:
    """Describe the parts of a result that a container cannot hold: frames or copied streams.

    Args:
        traits: The container.
        clip: Header of the source.
        source: File to copy streams from; None for a pipe.
        video: Encoder, and whether to copy streams.

    Raises:
        PlanError: The encoder does not exist, or does not support the frames.
        DeviceUnavailableError: The requested hardware encoder does not work.
    """
    encoder = encoding_for(clip, video).encoder
    lost = [] if encoder in traits.codecs else [f"{encoder} streams"]
    square = clip.aspect in (None, 1) or traits.muxer in ISO
    if not square and clip.aspect and not any(name in encoder for name in _STORE_ASPECT):
        ratio = f"{clip.aspect.numerator}:{clip.aspect.denominator}"
        lost.append(f"a pixel aspect ratio of {ratio} in {encoder} streams")
    if video.streams == "copy" and source is not None:
        lost += unsupported_streams(source, clip.stream, traits)
    return lost


def unsupported_streams(source: Path, main: int, traits: ContainerTraits) -> list[str]:
    """Describe the streams that a container cannot hold, without data streams.

    Args:
        source: The video.
        main: Index of the stream of frames.
        traits: The container.

    Raises:
        DecodeError: The video cannot be opened.
    """
    with open_container(source) as container:
        return [
            describe(stream)
            for stream in container.streams
            if stream.index != main
            and stream.type != "data"
            and int(stream.discard) != _DISCARD_ALL
            and not _is_supported(stream, traits)
        ]


def describe(stream: Stream) -> str:
    """Describe a stream for messages: `stream 3 (subtitle, subrip, eng)`."""
    codec = stream.codec_context.name if stream.codec_context else ""
    language = stream.metadata.get("language", "")
    parts = [stream.type, codec, "" if language == "und" else language]
    return f"stream {stream.index} ({', '.join(part for part in parts if part)})"


def copy_stream(
    stream: Stream, out: OutputContainer, traits: ContainerTraits
) -> tuple[Stream | None, str]:
    """Create a stream for the packets of another one.

    Args:
        stream: The source stream.
        out: The container to write.
        traits: What it can hold.

    Returns:
        The new stream and an empty text; or None and the description of a lost stream.
    """
    from av.stream import AttachmentStream

    if int(stream.discard) == _DISCARD_ALL:
        return None, ""
    if not _is_supported(stream, traits):
        return None, describe(stream)
    copy: Stream
    if isinstance(stream, AttachmentStream):
        name = stream.metadata.get("filename", f"attachment-{stream.index}")
        kind = stream.metadata.get("mimetype", "application/octet-stream")
        copy = out.add_attachment(name, kind, stream.data)
    else:
        copy = out.add_stream_from_template(stream, opaque=True)
        copy.time_base = stream.time_base
        copy.disposition = stream.disposition
    copy.metadata.update(content_tags(stream.metadata))
    return copy, ""


def is_timecode(stream: Stream) -> bool:
    """Return whether a stream is a timecode track: one packet, the number of the first frame."""
    return stream.type == "data" and TIMECODE in stream.metadata


def content_tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the tags without those in which a container or encoder describes itself."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower().partition("-")[0] not in _TECHNICAL_TAGS
        and not key.startswith("_STATISTICS")
    }


class StreamDigest:
    """Digest of a stream's bytes, however they are split into packets.

    Attributes:
        size: Bytes so far.
    """

    def __init__(self, stream: Stream) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        context = stream.codec_context
        name = context.codec.canonical_name if context else ""
        self._text = name == "mov_text"
        # Headers move from the packets into the container.
        self._headers_move = name in _REPACKETED and not (context and context.extradata)

    def add(self, packet: Packet[Any]) -> None:
        """Add a packet."""
        data = bytes(packet)
        if self._text and data == _EMPTY_TEXT:
            return  # containers fill gaps with these
        self.size += len(data)
        self._hash.update(data)

    def same_as(self, other: StreamDigest | None) -> bool:
        """Return whether another stream has equal bytes; if headers move, whether it exists."""
        if other is None:
            return False
        return self._headers_move or self._hash.digest() == other._hash.digest()


def _is_supported(stream: Stream, traits: ContainerTraits) -> bool:
    if stream.type == "attachment":
        return traits.muxer == "matroska"
    if stream.type == "data":
        # Telemetry and timecodes of cameras: only from QuickTime to QuickTime.
        return traits.muxer in ISO and traits.origin.startswith("mov")
    if stream.codec_context is None:
        return False
    return stream.codec_context.codec.name in traits.codecs
