"""The streams beside the frames: which container holds them, how they are copied and compared."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from varfix.engine.errors import PlanError
from varfix.engine.settings.types import VideoSettings
from varfix.engine.video.clip import Clip
from varfix.engine.video.probe import open_container
from varfix.engine.video.writer import encoding_for

if TYPE_CHECKING:
    from av import Packet
    from av.container import OutputContainer
    from av.stream import Stream

# FFmpeg's muxers by the ends of names.
MUXERS: Final = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
ISO: Final = ("mp4", "mov")
TIMECODE: Final = "timecode"
_UNUSED: Final = 48  # AVDISCARD_ALL: titles of chapters, which are copied as chapters
# What a container or encoder says of itself; in a copy it would be untrue.
_TECHNICAL: Final = frozenset(
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
# Streams whose packets a container cuts or wraps in its own way when they lack a header.
_WRAPPED: Final = frozenset({"aac", "h264", "hevc"})
# Encoders that write the shape of a pixel into their own stream: others leave it to the container,
# and Matroska's writer is not told.
_SHAPED: Final = ("264", "265", "hevc", "mpeg")
_EMPTY_TEXT: Final = b"\0\0"


@dataclass(frozen=True)
class ContainerTraits:
    """A container that is written.

    Attributes:
        muxer: FFmpeg's name.
        codecs: encoders and decoders, by FFmpeg's names, of what it holds.
        origin: FFmpeg's names of the source's container, by commas.
    """

    muxer: str
    codecs: frozenset[str]
    origin: str


def container_traits(target: Path, origin: str) -> ContainerTraits:
    """Tell what a container of this name holds.

    Raises:
        PlanError: The name is not that of a container that varfix writes.
    """
    import av

    muxer = MUXERS.get(target.suffix.lower())
    if muxer is None:
        raise PlanError(
            f"{target}: clips are written as {', '.join(MUXERS)}", hint="choose one of these names"
        )
    with av.open(io.BytesIO(), "w", format=muxer) as container:
        return ContainerTraits(muxer, frozenset(container.supported_codecs), origin)


def list_unsupported(
    traits: ContainerTraits, clip: Clip, source: Path | None, video: VideoSettings
) -> list[str]:
    """Name what of a result a container cannot hold: the frames, or streams that are copied.

    Args:
        traits: of the container.
        clip: header of the source.
        source: where streams are copied from; None for a pipe.
        video: encoder, and whether to copy.

    Raises:
        PlanError: There is no such encoder, or it does not take the frames.
        DeviceUnavailableError: The hardware encoder asked for does not work.
    """
    encoder = encoding_for(clip, video).encoder
    lost = [] if encoder in traits.codecs else [f"what {encoder} writes"]
    square = clip.aspect in (None, 1) or traits.muxer in ISO
    if not square and clip.aspect and not any(name in encoder for name in _SHAPED):
        ratio = f"{clip.aspect.numerator}:{clip.aspect.denominator}"
        lost.append(f"pixels of {ratio} with what {encoder} writes")
    if video.streams == "copy" and source is not None:
        lost += unsupported_streams(source, clip.stream, traits)
    return lost


def unsupported_streams(source: Path, main: int, traits: ContainerTraits) -> list[str]:
    """Name the streams of a clip that a container cannot hold, but for data that few can.

    Raises:
        DecodeError: The clip cannot be opened.
    """
    with open_container(source) as container:
        return [
            describe(stream)
            for stream in container.streams
            if stream.index != main
            and stream.type != "data"
            and int(stream.discard) != _UNUSED
            and not _held(stream, traits)
        ]


def describe(stream: Stream) -> str:
    """A stream as people know it: `stream 3 (subtitle, subrip, eng)`."""
    codec = stream.codec_context.name if stream.codec_context else ""
    language = stream.metadata.get("language", "")
    parts = [stream.type, codec, "" if language == "und" else language]
    return f"stream {stream.index} ({', '.join(part for part in parts if part)})"


def copied(
    stream: Stream, out: OutputContainer, traits: ContainerTraits
) -> tuple[Stream | None, str]:
    """Make a stream for the packets of another; or None, with what is lost by that."""
    from av.stream import AttachmentStream

    if int(stream.discard) == _UNUSED:
        return None, ""
    if not _held(stream, traits):
        return None, describe(stream)
    made: Stream
    if isinstance(stream, AttachmentStream):
        name = stream.metadata.get("filename", f"attachment-{stream.index}")
        kind = stream.metadata.get("mimetype", "application/octet-stream")
        made = out.add_attachment(name, kind, stream.data)
    else:
        made = out.add_stream_from_template(stream, opaque=True)
        made.time_base = stream.time_base
        made.disposition = stream.disposition
    made.metadata.update(untechnical(stream.metadata))
    return made, ""


def is_timecode(stream: Stream) -> bool:
    """Whether a stream is what cameras count by: one packet, the number of the first frame."""
    return stream.type == "data" and TIMECODE in stream.metadata


def untechnical(metadata: Mapping[str, str]) -> dict[str, str]:
    """Tags but for those that a container or encoder writes about itself."""
    return {
        key: value
        for key, value in metadata.items()
        if key.lower().partition("-")[0] not in _TECHNICAL and not key.startswith("_STATISTICS")
    }


class StreamDigest:
    """What is in a stream: its bytes, however they are cut into packets."""

    def __init__(self, stream: Stream) -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        context = stream.codec_context
        name = context.codec.canonical_name if context else ""
        self._text = name == "mov_text"
        # Headers move from the packets into the container.
        self._loose = name in _WRAPPED and not (context and context.extradata)

    def add(self, packet: Packet[Any]) -> None:
        """Take a packet in."""
        data = bytes(packet)
        if self._text and data == _EMPTY_TEXT:
            return  # containers put these where nothing is said
        self.size += len(data)
        self._hash.update(data)

    def same_as(self, other: StreamDigest | None) -> bool:
        """Whether another stream holds the same; where headers move, that there is one."""
        if other is None:
            return False
        return self._loose or self._hash.digest() == other._hash.digest()


def _held(stream: Stream, traits: ContainerTraits) -> bool:
    if stream.type == "attachment":
        return traits.muxer == "matroska"
    if stream.type == "data":
        # Telemetry and time codes of cameras: only from QuickTime to QuickTime.
        return traits.muxer in ISO and traits.origin.startswith("mov")
    if stream.codec_context is None:
        return False
    return stream.codec_context.codec.name in traits.codecs
