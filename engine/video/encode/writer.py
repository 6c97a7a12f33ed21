"""Encodes frames: chooses the pixel format, and writes one self-contained segment at a time."""

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
from varfix.engine.video.containers import av_path, open_container
from varfix.engine.video.encode.encoders import (
    HARDWARE,
    check_accepted,
    encoder_for,
    formats_of,
    options_for,
)
from varfix.engine.video.pixel_formats import frame_of

if TYPE_CHECKING:
    from av import VideoCodecContext, VideoFrame

# Encoders that support odd sizes together with chroma subsampling.
_ODD_SIZES: Final = frozenset({"ffv1", "libvpx-vp9", "libaom-av1"})
_DEPTHS: Final = {8: (8, 10, 12, 16), 10: (10, 12, 16, 8), 12: (12, 16, 10, 8), 16: (16, 12, 10, 8)}
_SAMPLINGS: Final = {
    (2, 2): ((2, 2), (2, 1), (1, 1)),
    (2, 1): ((2, 1), (1, 1), (2, 2)),
    (1, 1): ((1, 1), (2, 1), (2, 2)),
}
# FFmpeg's interleaved formats by their planar equivalents.
_INTERLEAVED: Final = {"yuv420p": "nv12", "yuv420p10le": "p010le"}
# The millisecond ticks of a segment's file count frames. The offset keeps every presentation time
# after its decoding time, however far an encoder reorders frames.
_TICK: Final = Fraction(1, 1000)
_OFFSET: Final = 1000


@dataclass(frozen=True)
class Encoding:
    """How to encode frames.

    Attributes:
        encoder: FFmpeg's name.
        options: Options of the encoder.
        layout: Layout of its input frames.
        rate: Frames per second for its rate control.
        aspect: Width of a pixel divided by its height.
        tags: Color tags of the stream.
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
        PlanError: The encoder does not exist, has no quality, or does not support the size.
        DeviceUnavailableError: A hardware encoder does not work here.
    """
    chosen = encoder_for(clip, video)
    layout = _nearest_layout(clip.layout, chosen.name)
    options = options_for(chosen, layout, video, clip.hdr)
    encoding = Encoding(chosen.name, options, layout, clip.rate, clip.aspect, clip.tags)
    check_accepted(chosen, video, _open_once(encoding))
    return encoding


def _nearest_layout(layout: Layout, name: str) -> Layout:
    """Return the supported layout nearest to that of the source, lossless if possible."""
    formats = formats_of(name)
    if layout.alpha and (
        name.startswith("libvpx") or not any("yuva" in pix_fmt for pix_fmt in formats)
    ):
        raise PlanError(
            f"{name} does not store transparency",
            hint="use --codec prores or --codec ffv1, or add --set output.flatten=black",
        )
    if layout.gray and not layout.alpha and layout.name in formats:
        return layout
    odd = (layout.width % 2, layout.height % 2)
    for across, down in _SAMPLINGS[layout.across, layout.down]:
        if name not in _ODD_SIZES and ((across == 2 and odd[0]) or (down == 2 and odd[1])):
            continue
        for depth in _DEPTHS[layout.depth]:
            near = replace(layout, across=across, down=down, depth=depth, gray=False)
            if near.name in formats or _INTERLEAVED.get(near.name) in formats:
                return near
    raise PlanError(
        f"{name} does not support {layout.width}x{layout.height} frames in {layout.name}",
        hint="use another encoder, such as --codec h264 or --codec ffv1",
    )


def _open_once(encoding: Encoding) -> Mapping[str, str]:
    """Open the encoder once, to find errors before any work.

    Returns:
        The options that it did not accept.
    """
    import av
    import av.error

    _silence()
    context = av.CodecContext.create(encoding.encoder, "w")
    assert isinstance(context, av.VideoCodecContext)
    _configure(context, encoding)
    context.options = dict(encoding.options)
    try:
        context.open()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        text = f"encoder {encoding.encoder} cannot be opened ({why})"
        if encoding.encoder.endswith(HARDWARE):
            raise DeviceUnavailableError(
                text, hint="install its hardware driver, or use --codec hevc or --codec h264"
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


def _silence() -> None:
    """Keep SVT-AV1 from writing to stderr, between varfix's messages."""
    os.environ.setdefault("SVT_LOG", "1")


class SegmentEncoder:
    """Encodes one segment into a file; frame n is at tick n, the real times are set by the muxer.

    The segment begins with a key frame and refers to no frame outside of it.
    """

    def __init__(self, path: Path, encoding: Encoding) -> None:
        """Open the file.

        Raises:
            EncodeError: The encoder does not open.
        """
        import av

        _silence()
        self._encoding = encoding
        self._count = 0
        self._order: list[int] = []
        self._file = av.open(
            av_path(path), "w", format="matroska", container_options={"fflags": "+bitexact"}
        )
        stream = self._file.add_stream(
            encoding.encoder, rate=encoding.rate, options=dict(encoding.options)
        )
        assert isinstance(stream, av.VideoStream)
        self._stream = stream
        _configure(stream.codec_context, encoding)

    @property
    def delay(self) -> int:
        """Frames by which decoding must run ahead of presentation, once the segment is finished."""
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
        """Encode all buffered frames, and close the file.

        Raises:
            EncodeError: The encoder fails.
            OSError: The disk is full.
        """
        self._encode(None)
        self._file.close()

    def close(self) -> None:
        """Close the file, finished or not."""
        with suppress(Exception):  # an unfinished file may be invalid
            self._file.close()

    def _encode(self, frame: VideoFrame | None) -> None:
        import av.error

        try:
            packets = self._stream.encode(frame)
            for packet in packets:
                assert packet.pts is not None
                # No `rescale_ts`: one tick is one frame. No decoding time of the encoder either:
                # x265 computes it from uninitialized memory if it gets only two frames.
                packet.dts = len(self._order)
                self._order.append(packet.pts)
                packet.pts += _OFFSET
                packet.time_base = _TICK
                self._file.mux(packet)
        except av.error.FFmpegError as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise EncodeError(f"{self._encoding.encoder} failed ({error})") from error


def count_frames(path: Path) -> int:
    """Return the number of frames in the file of a segment."""
    with open_container(path) as container:
        return sum(packet.pts is not None for packet in container.demux(video=0))


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
