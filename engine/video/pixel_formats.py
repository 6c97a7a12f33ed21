"""Conversion between PyAV frames and planes of samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from varfix.engine.video.clip import FULL, Layout, Samples

if TYPE_CHECKING:
    from av import VideoFrame

# Matrices that FFmpeg can convert with, in the numbers of ISO/IEC 23091-2.
_CONVERTIBLE = (1, 4, 5, 6, 7, 9)


def planes_of(frame: VideoFrame, layout: Layout) -> tuple[Samples, ...]:
    """Return a copy of a frame's planes, converted to a layout if necessary.

    Matrix and range stay; RGB becomes BT.709.
    """
    if frame.format.name.replace("yuvj", "yuv") != layout.name:
        frame = _reformatted(frame, layout, int(frame.colorspace))
    size = np.dtype(layout.dtype).itemsize
    planes = []
    for plane, (height, width) in zip(frame.planes, layout.shapes, strict=True):
        lines = _lines(plane, height)[:, : width * size]
        planes.append(np.ascontiguousarray(lines).view(layout.dtype))
    return tuple(planes)


def frame_of(planes: Iterable[Samples], layout: Layout) -> VideoFrame:
    """Return a frame with a copy of the planes."""
    import av

    frame = av.VideoFrame(layout.width, layout.height, layout.name)
    size = np.dtype(layout.dtype).itemsize
    for plane, samples in zip(frame.planes, planes, strict=True):
        height, width = samples.shape
        _lines(plane, height)[:, : width * size] = np.ascontiguousarray(samples).view(np.uint8)
    return frame


def _lines(plane: Any, height: int) -> npt.NDArray[np.uint8]:
    """Return a view of the bytes of a plane's lines, with the padding at their ends."""
    data = np.frombuffer(plane, np.uint8)
    return data[: plane.line_size * height].reshape(height, plane.line_size)


def convert_planes(
    planes: tuple[Samples, ...], layout: Layout, wanted: Layout, matrix: int
) -> tuple[Samples, ...]:
    """Convert planes to another layout of the same matrix and range."""
    if layout.name == wanted.name:
        return planes
    frame = frame_of(planes, layout)
    frame.colorspace = matrix
    return planes_of(frame, wanted)


def _reformatted(frame: VideoFrame, wanted: Layout, matrix: int) -> VideoFrame:
    rgb = frame.format.is_rgb or frame.format.has_palette
    # Between two Y'CbCr formats any matrix works, as long as it is the same on both sides.
    matrix = 1 if rgb or matrix not in _CONVERTIBLE else matrix
    spread = FULL if wanted.full else 1
    return frame.reformat(
        format=wanted.name,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        src_color_range=FULL if rgb else spread,
        dst_color_range=spread,
        interpolation="BICUBIC",
    )
