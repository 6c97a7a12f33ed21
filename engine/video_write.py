"""Encodes frames: which encoder, which pixel format, and one closed piece of a clip at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from varfix.engine.clip import FULL, Clip, Layout, Samples, Tags
from varfix.engine.errors import DeviceUnavailableError, EncodeError, PlanError
from varfix.engine.settings import VideoSettings
from varfix.engine.video_planes import frame_of
from varfix.engine.video_probe import opened

if TYPE_CHECKING:
    from av import VideoCodecContext, VideoFrame


@dataclass(frozen=True)
class Encoder:
    """What FFmpeg calls an encoder, and what it is told.

    Attributes:
        name: FFmpeg's.
        crf: quality when nobody asks for another; None for an encoder without loss.
        options: always given. Threads are fixed where their number changes the result.
    """

    name: str
    crf: int | None
    options: Mapping[str, str]


ENCODERS: Final = {
    "h264": Encoder("libx264", 17, {"preset": "medium", "threads": "8"}),
    "hevc": Encoder(
        "libx265",
        18,
        {"preset": "medium", "x265-params": "log-level=error:open-gop=0:frame-threads=2"},
    ),
    "av1": Encoder("libsvtav1", 22, {"preset": "6"}),
    "ffv1": Encoder("ffv1", None, {"level": "3", "slices": "4", "slicecrc": "1"}),
}
CODECS: Final = ("auto", *ENCODERS)

# The option for quality of other encoders, by the end or the whole of their name.
_QUALITY: Final = {
    "_nvenc": {"rc": "vbr", "cq": "{}", "b": "0"},
    "_qsv": {"global_quality": "{}"},
    "_vaapi": {"qp": "{}"},
    "_amf": {"rc": "cqp", "qp_i": "{}", "qp_p": "{}"},
    "_videotoolbox": {"q": "{}"},
    "libvpx-vp9": {"crf": "{}", "b": "0"},
    "libaom-av1": {"crf": "{}", "b": "0"},
}
_HARDWARE: Final = ("_nvenc", "_qsv", "_vaapi", "_amf", "_videotoolbox", "_v4l2m2m", "_mf")
_OTHER_CRF: Final = 19
# OpenCV's numbers of abilities of processors.
_AVX2: Final = 11
_AVX_512F: Final = 13
_SLICED: Final = 16  # pixels: FFV1 cuts no smaller frames
# What an old codec's successor is, where `auto` must choose.
_SUCCESSORS: Final = {"vp8": "av1", "vp9": "av1", "av1": "av1", "hevc": "hevc", "ffv1": "ffv1"}
# Encoders that take odd sizes together with sampled colour.
_ODD: Final = frozenset({"ffv1", "libvpx-vp9", "libaom-av1"})
_DEPTHS: Final = {8: (8, 10, 12, 16), 10: (10, 12, 16, 8), 12: (12, 16, 10, 8), 16: (16, 12, 10, 8)}
_SAMPLINGS: Final = {
    (2, 2): ((2, 2), (2, 1), (1, 1)),
    (2, 1): ((2, 1), (1, 1), (2, 2)),
    (1, 1): ((1, 1), (2, 1), (2, 2)),
}
# FFmpeg's interleaved formats, and what they are when taken apart.
_INTERLEAVED: Final = {"yuv420p": "nv12", "yuv420p10le": "p010le"}
# Milliseconds, as the file of a piece has them, stand for frames. Encoders begin below zero.
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
        chosen.name, _options(chosen, size, video), layout, clip.rate, clip.aspect, clip.tags
    )
    _try(encoding)
    return encoding


def encoder_for(clip: Clip, video: VideoSettings) -> Encoder:
    """Choose an encoder: the one asked for, else that of the clip's own codec or its successor.

    Raises:
        PlanError: There is none of this name.
    """
    wanted = video.codec
    if wanted == "auto":
        wanted = _SUCCESSORS.get(clip.codec, "h264")
        if wanted == "h264" and clip.layout.depth > 8:
            wanted = "hevc"  # players know ten bits of it
    known = ENCODERS.get(wanted)
    if known is None and not _formats(wanted):
        raise PlanError(
            f"--codec {wanted}: there is no such encoder here. Known: {', '.join(CODECS)}, and"
            " FFmpeg's own names, such as hevc_nvenc"
        )
    return known or Encoder(wanted, _OTHER_CRF, {})


def _options(encoder: Encoder, size: tuple[int, int], video: VideoSettings) -> dict[str, str]:
    options = dict(encoder.options)
    if encoder.crf is None:
        if video.crf is not None:
            raise PlanError(f"--crf: {encoder.name} loses nothing, so that there is no quality")
    else:
        quality = str(encoder.crf if video.crf is None else video.crf)
        kinds = (kind for end, kind in _QUALITY.items() if encoder.name.endswith(end))
        kind = next(kinds, {"crf": "{}"})
        options |= {key: text.format(quality) for key, text in kind.items()}
    if encoder.name == "ffv1" and min(size) < _SLICED:
        options["slices"] = "1"
    if encoder.name == "libx264" and _has_avx512():
        options["x264-params"] = "asm=avx2"
    if video.speed is not None:
        options["preset"] = video.speed
    for pair in filter(None, video.encoder_options.split(",")):
        key, _, value = pair.partition("=")
        options[key.strip()] = value.strip()
    return options


def _has_avx512() -> bool:
    """Whether x264 would use AVX-512 here.

    Its code for that reads memory that was never written (in `mbtree`, for widths that are not
    multiples of 256), so that the same frames give files that differ from run to run.
    """
    import cv2

    return all(cv2.checkHardwareSupport(one) for one in (_AVX2, _AVX_512F))


def _formats(name: str) -> frozenset[str]:
    """Pixel formats that an encoder takes; empty when there is no such video encoder."""
    import av
    from av.codec.codec import UnknownCodecError

    try:
        codec = av.Codec(name, "w")
    except UnknownCodecError:
        return frozenset()
    if codec.type != "video":
        return frozenset()
    return frozenset(one.name for one in codec.video_formats or ()) or frozenset({"yuv420p"})


def _fitting(layout: Layout, name: str) -> Layout:
    """The layout nearest to the clip's own that an encoder takes: nothing lost if possible."""
    formats = _formats(name)
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


def _try(encoding: Encoding) -> None:
    """Open the encoder once, so that what is wrong is told before any work."""
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
        text = f"the encoder {encoding.encoder} cannot be opened ({error})"
        if encoding.encoder.endswith(_HARDWARE):
            raise DeviceUnavailableError(
                text, hint="its hardware or driver is missing here; use --codec hevc or h264"
            ) from error
        raise PlanError(text, hint="check --crf and video.encoder_options") from error


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
    return name if name in _formats(encoding.encoder) else _INTERLEAVED[name]


def _quieten() -> None:
    """Keep an encoder from writing to stderr, where people read varfix's own messages."""
    os.environ.setdefault("SVT_LOG", "1")


class PieceWriter:
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
            str(place), "w", format="matroska", container_options={"fflags": "+bitexact"}
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
                # Not `rescale_ts`: a tick is to be a frame.
                self._order.append(packet.pts)
                packet.pts += _OFFSET
                packet.dts = packet.pts if packet.dts is None else packet.dts + _OFFSET
                packet.time_base = _TICK
                self._file.mux(packet)
        except av.error.FFmpegError as error:
            if isinstance(error, OSError) and error.errno:
                raise
            raise EncodeError(f"{self._encoding.encoder} failed ({error})") from error


def count_frames(place: Path) -> int:
    """Return how many frames are in the file of a piece."""
    with opened(place) as piece:
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
