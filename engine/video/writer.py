"""Encodes frames: in which pixel format, and one closed piece of a clip at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from varfix.engine.errors import DeviceUnavailableError, EncodeError, PlanError
from varfix.engine.settings.types import VideoSettings
from varfix.engine.video.clip import FULL, Clip, Layout, Samples, Tags
from varfix.engine.video.encoders import (
    HARDWARE,
    check_taken,
    encoder_for,
    formats_of,
    options_for,
)
from varfix.engine.video.pixel_formats import frame_of
from varfix.engine.video.probe import av_path, open_container

if TYPE_CHECKING:
    from av import VideoCodecContext, VideoFrame

# Encoders that take odd sizes together with sampled color.
_ODD: Final = frozenset({"ffv1", "libvpx-vp9", "libaom-av1"})
_DEPTHS: Final = {8: (8, 10, 12, 16), 10: (10, 12, 16, 8), 12: (12, 16, 10, 8), 16: (16, 12, 10, 8)}
_SAMPLINGS: Final = {
    (2, 2): ((2, 2), (2, 1), (1, 1)),
    (2, 1): ((2, 1), (1, 1), (2, 2)),
    (1, 1): ((1, 1), (2, 1), (2, 2)),
}
# FFmpeg's interleaved formats, and what they are when taken apart.
_INTERLEAVED: Final = {"yuv420p": "nv12", "yuv420p10le": "p010le"}
# Milliseconds, as the file of a piece has them, stand for frames. Nothing is shown before it is
# decoded, however far an encoder puts frames out of order.
_TICK: Final = Fraction(1, 1000)
_OFFSET: Final = 1000


@dataclass(frozen=True)
class Encoding:
    """How frames are encoded.

    Attributes:
        encoder: FFmpeg's name.
        options: given to it.
        layout: of the frames that it is given.
        rate: frames per second that its decisions assume.
        aspect: width of a pixel by its height.
        tags: written into the stream.
    """

    encoder: str
    options: Mapping[str, str]
    layout: Layout
    rate: Fraction
    aspect: Fraction | None
    tags: Tags


def encoding_for(clip: Clip, video: VideoSettings) -> Encoding:
    """Choose encoder and pixel format.

    Raises:
        PlanError: There is no such encoder, it has no quality to choose, or cannot hold the size.
        DeviceUnavailableError: A hardware encoder does not work here.
    """
    chosen = encoder_for(clip, video)
    layout = _fitting(clip.layout, chosen.name)
    size = layout.width, layout.height
    encoding = Encoding(
        chosen.name, options_for(chosen, size, video), layout, clip.rate, clip.aspect, clip.tags
    )
    check_taken(chosen, video, _try(encoding))
    return encoding


def _fitting(layout: Layout, name: str) -> Layout:
    """The layout nearest to the clip's own that an encoder takes: nothing lost if possible."""
    formats = formats_of(name)
    if layout.gray and layout.name in formats:
        return layout
    odd = (layout.width % 2, layout.height % 2)
    for across, down in _SAMPLINGS[layout.across, layout.down]:
        if name not in _ODD and ((across == 2 and odd[0]) or (down == 2 and odd[1])):
            continue
        for depth in _DEPTHS[layout.depth]:
            near = replace(layout, across=across, down=down, depth=depth, gray=False)
            if near.name in formats or _INTERLEAVED.get(near.name) in formats:
                return near
    raise PlanError(
        f"{name} takes no frames of {layout.width}x{layout.height} stored as {layout.name}",
        hint="choose another --codec, such as h264 or ffv1",
    )


def _try(encoding: Encoding) -> Mapping[str, str]:
    """Open the encoder once, so that what is wrong is told before any work.

    Returns:
        The options that it did not take.
    """
    import av
    import av.error

    _quieten()
    context = av.CodecContext.create(encoding.encoder, "w")
    assert isinstance(context, av.VideoCodecContext)
    _configure(context, encoding)
    context.options = dict(encoding.options)
    try:
        context.open()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        text = f"the encoder {encoding.encoder} cannot be opened ({why})"
        if encoding.encoder.endswith(HARDWARE):
            raise DeviceUnavailableError(
                text, hint="its hardware or driver is missing here; use --codec hevc or h264"
            ) from error
        raise PlanError(text, hint="check --crf and video.encoder_options") from error
    return context.options


def _configure(context: VideoCodecContext, encoding: Encoding) -> None:
    layout, tags = encoding.layout, encoding.tags
    context.width, context.height = layout.width, layout.height
    context.pix_fmt = _stored(encoding)
    context.time_base = 1 / encoding.rate
    context.framerate = encoding.rate
    if encoding.aspect is not None:
        context.sample_aspect_ratio = encoding.aspect
    context.color_primaries, context.color_trc = tags.primaries, tags.transfer
    context.colorspace = tags.matrix
    context.color_range = FULL if layout.full else tags.range


def _stored(encoding: Encoding) -> str:
    name = encoding.layout.name
    return name if name in formats_of(encoding.encoder) else _INTERLEAVED[name]


def _quieten() -> None:
    """Keep an encoder from writing to stderr, where people read varfix's own messages."""
    os.environ.setdefault("SVT_LOG", "1")


class SegmentEncoder:
    """Writes a piece of a clip to a file: the n-th frame at n ticks, the times come later.

    The piece begins with a key frame, and nothing in it refers to what is outside.
    """

    def __init__(self, place: Path, encoding: Encoding) -> None:
        """Open the file.

        Raises:
            EncodeError: The encoder does not open.
        """
        import av

        _quieten()
        self._encoding = encoding
        self._count = 0
        self._order: list[int] = []
        self._file = av.open(
            av_path(place), "w", format="matroska", container_options={"fflags": "+bitexact"}
        )
        stream = self._file.add_stream(
            encoding.encoder, rate=encoding.rate, options=dict(encoding.options)
        )
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        _configure(stream.codec_context, encoding)

    @property
    def delay(self) -> int:
        """By how many frames decoding must run ahead of showing, once the piece is finished."""
        ranks = {pts: rank for rank, pts in enumerate(sorted(self._order))}
        return max((at - ranks[pts] for at, pts in enumerate(self._order)), default=0)

    def add(self, planes: tuple[Samples, ...]) -> None:
        """Encode a frame.

        Raises:
            EncodeError: The encoder fails.
            OSError: The disk is full.
        """
        self._encode(_frame(planes, self._encoding, self._count))
        self._count += 1

    def finish(self) -> None:
        """Encode what waits, and close the file.

        Raises:
            EncodeError: The encoder fails.
            OSError: The disk is full.
        """
        self._encode(None)
        self._file.close()

    def close(self) -> None:
        """Close the file, finished or not."""
        with suppress(Exception):  # what is not finished may be broken
            self._file.close()

    def _encode(self, frame: VideoFrame | None) -> None:
        import av.error

        try:
            packets = self._stream.encode(frame)
            for packet in packets:
                assert packet.pts is not None
                # Not `rescale_ts`: a tick is to be a frame. And not the encoder's time of decoding,
                # which x265 makes of memory that was never written where it gets two frames.
                packet.dts = len(self._order)
                self._order.append(packet.pts)
                packet.pts += _OFFSET
                packet.time_base = _TICK
                self._file.mux(packet)
        except av.error.FFmpegError as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise EncodeError(f"{self._encoding.encoder} failed ({error})") from error


def count_frames(place: Path) -> int:
    """Return how many frames are in the file of a piece."""
    with open_container(place) as piece:
        return sum(packet.pts is not None for packet in piece.demux(video=0))


def _frame(planes: Iterable[Samples], encoding: Encoding, number: int) -> VideoFrame:
    layout, tags = encoding.layout, encoding.tags
    frame = frame_of(planes, layout)
    stored = _stored(encoding)
    if stored != layout.name:
        frame = frame.reformat(format=stored)
    frame.pts, frame.time_base = number, 1 / encoding.rate
    frame.color_primaries, frame.color_trc = tags.primaries, tags.transfer
    frame.colorspace, frame.color_range = tags.matrix, FULL if layout.full else tags.range
    return frame
