"""Properties of a frame and its stream: layout of samples, color tags, rotation, rate."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, cast

from varfix.engine.video.clip import FULL, Layout, Tags

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream

_MIN_RATE: Final = Fraction(1)
_MAX_RATE: Final = Fraction(240)
# Codecs whose chroma samples are between pixels. In the others they are at the left one, unless a
# tag that PyAV does not give says otherwise.
_CENTERED: Final = frozenset({"mjpeg", "mjpegb", "ljpeg", "amv", "mpeg1video", "theora"})


def layout_of(frame: VideoFrame, codec: str = "") -> Layout:
    """Return the planar layout that holds all of a frame's samples.

    RGB becomes Y'CbCr 4:4:4; chroma subsampled by four becomes subsampled by two.

    Args:
        frame: A frame.
        codec: FFmpeg's name of the codec, which decides where chroma samples are.
    """
    form = frame.format
    depth = max(component.bits for component in form.components)
    down, across = 1, 1
    if not is_rgb(frame) and len(form.components) > 1:
        across = 2 if form.chroma_width(16) < 16 else 1
        down = 2 if form.chroma_height(16) < 16 else 1
        if (across, down) == (1, 2):  # no encoder takes 4:4:0
            down = 1
    jpeg = form.name.startswith("yuvj")
    return Layout(
        width=frame.width,
        height=frame.height,
        depth=8 if depth <= 8 else 10 if depth <= 10 else 12 if depth <= 12 else 16,
        across=across,
        down=down,
        gray=len(form.components) == 1 and not form.has_palette,
        full=(int(frame.color_range) == FULL or jpeg) and not is_rgb(frame),
        centered=codec in _CENTERED,
    )


def tags_of(frame: VideoFrame) -> Tags:
    """Return the color tags of a frame."""
    matrix = 1 if is_rgb(frame) else int(frame.colorspace)
    return Tags(
        int(frame.color_primaries),
        int(frame.color_trc),
        matrix,
        0 if is_rgb(frame) else int(frame.color_range),
    )


def is_rgb(frame: VideoFrame) -> bool:
    """Return whether a frame stores red, green and blue."""
    return bool(frame.format.is_rgb or frame.format.has_palette)


def display_matrix(frame: VideoFrame) -> tuple[int, ...] | None:
    """Return the nine numbers that rotate a frame; None for an upright frame."""
    for number in range(len(frame.side_data)):
        data = cast(Any, frame.side_data)[number]
        if data.type.name == "DISPLAYMATRIX":
            raw = bytes(data)
            parts = (raw[at : at + 4] for at in range(0, 36, 4))
            return tuple(int.from_bytes(part, "little", signed=True) for part in parts)
    return None


def rate_of(stream: VideoStream) -> Fraction:
    """Return the average frames per second, as far as the header gives it."""
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    return min(max(rate, _MIN_RATE), _MAX_RATE)
