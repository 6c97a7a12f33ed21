"""A video for comparison: the source on the left of the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from varfix.engine.video.clip import Frame, Layout, Samples
from varfix.engine.video.encode.segment_writer import SegmentWriter


def side_by_side(layout: Layout, turns: int) -> Layout:
    """Return the layout of two frames next to each other, as they are shown.

    Args:
        layout: Layout of one frame.
        turns: Counterclockwise quarter turns that make a frame upright.
    """
    width, height = _even(layout)
    if turns % 2:
        return replace(layout, width=width, height=2 * height)
    return replace(layout, width=2 * width, height=height)


class SideBySideWriter:
    """Writes source and result as one frame; an odd last column or line is left out."""

    def __init__(self, writer: SegmentWriter, layout: Layout, turns: int) -> None:
        """Take the writer of the wide frames.

        Args:
            writer: Receives frames of the layout `side_by_side(layout, turns)`.
            layout: Layout of the frames to add.
            turns: Counterclockwise quarter turns that make a frame upright.
        """
        self._writer, self._turns = writer, turns
        width, height = _even(layout)
        self._shapes = replace(layout, width=width, height=height).shapes

    def add(self, frame: Frame, planes: tuple[Samples, ...]) -> None:
        """Write a source frame and its restored samples; see `SegmentWriter.add`."""
        pairs = zip(frame.planes, planes, self._shapes, strict=True)
        joined = tuple(self._joined([before, after], shape) for before, after, shape in pairs)
        self._writer.add(frame, joined)

    def _joined(self, planes: Sequence[Samples], shape: tuple[int, int]) -> Samples:
        height, width = shape
        upright = [np.rot90(plane[:height, :width], self._turns) for plane in planes]
        return np.ascontiguousarray(np.rot90(np.hstack(upright), -self._turns))


def _even(layout: Layout) -> tuple[int, int]:
    """Return width and height as multiples of the chroma subsampling."""
    across, down = (1, 1) if layout.gray else (layout.across, layout.down)
    return layout.width // across * across, layout.height // down * down
