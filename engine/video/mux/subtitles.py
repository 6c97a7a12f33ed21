"""Converts subtitles of plain text where the container needs them in another form.

MP4 and QuickTime hold timed text, Matroska SubRip (SRT) and others, WebM WebVTT. Italics and the
like are kept as far as both forms have them.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from av import Packet
    from av.container import OutputContainer
    from av.stream import Stream
    from av.subtitles.codeccontext import SubtitleCodecContext

_TICK: Final = Fraction(1, 1000)
_TEXT: Final = frozenset({"mov_text", "subrip", "webvtt", "text"})
# The form to convert to, and the forms that are copied, by FFmpeg's names of muxers and codecs.
_FORMS: Final = {
    "mp4": ("mov_text", frozenset({"mov_text"})),
    "mov": ("mov_text", frozenset({"mov_text"})),
    "matroska": ("subrip", frozenset({"subrip", "webvtt", "text"})),
    "webm": ("webvtt", frozenset({"webvtt"})),
}


def form_for(stream: Stream, muxer: str) -> str | None:
    """Return the codec to convert a stream to; None to copy it.

    Args:
        stream: A stream of the source.
        muxer: FFmpeg's name of the muxer.
    """
    from av.subtitles.codeccontext import SubtitleCodecContext

    if stream.type != "subtitle" or stream.codec_context is None or muxer not in _FORMS:
        return None
    wanted, held = _FORMS[muxer]
    name = stream.codec_context.codec.canonical_name
    # Older versions of PyAV do not encode subtitles.
    can_convert = hasattr(SubtitleCodecContext, "encode_subtitle")
    return wanted if name in _TEXT - held and can_convert else None


class SubtitleConverter:
    """Converts the packets of one stream.

    Attributes:
        copy: The stream to write.
    """

    def __init__(self, stream: Stream, wanted: str, out: OutputContainer) -> None:
        """Create the stream to write.

        Args:
            stream: A stream of the source.
            wanted: From `form_for`.
            out: The container to write.
        """
        from av.subtitles.stream import SubtitleStream

        copy = out.add_stream(wanted)
        assert isinstance(copy, SubtitleStream) and isinstance(stream, SubtitleStream)
        self._decoder: SubtitleCodecContext = stream.codec_context
        self._encoder: SubtitleCodecContext = copy.codec_context
        self._decoder.open(strict=False)
        self._encoder.subtitle_header = self._decoder.subtitle_header
        self._encoder.time_base = _TICK
        self.copy: Stream = copy

    def converted(self, packet: Packet[Stream]) -> Packet[Stream] | None:
        """Return the packet in the new form, with the same times; None if it holds no text."""
        decoded = self._decoder.decode2(packet)
        if decoded is None or not len(decoded):
            return None
        made = self._encoder.encode_subtitle(decoded)
        made.time_base = packet.time_base
        made.pts, made.dts, made.duration = packet.pts, packet.dts, packet.duration
        return made
