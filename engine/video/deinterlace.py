"""Deinterlacing with FFmpeg's filter bwdif, and recognition of telecined film."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from varfix.engine.video.clip import Clip

if TYPE_CHECKING:
    from av import VideoFrame
    from av.filter import Graph

FRAMES: Final = "frames"
FIELDS: Final = "fields"
MODES: Final = {FRAMES: "send_frame", FIELDS: "send_field"}

NEIGHBORS: Final = 2
"""Frames before a frame that the filter needs."""

# Telecine spreads four frames of film over five of video: two of five are combed.
_CYCLE: Final = 5
_COMBED: Final = 2
_CYCLES: Final = 8  # least number of cycles for a decision
_COMB_RATIO: Final = 1.5  # least ratio of combing in combed frames to that in the others


def for_fields(clip: Clip) -> Clip:
    """Return the header of a video with a frame for each field.

    The ticks are halved, because frames of some files last only one tick.
    """
    frames = None if clip.frames is None else 2 * clip.frames
    end = None if clip.end is None else 2 * clip.end
    return replace(
        clip,
        time_base=clip.time_base / 2,
        rate=2 * clip.rate,
        frames=frames,
        first=2 * clip.first,
        end=end,
        fields=True,
    )


class Deinterlacer:
    """Deinterlaces the frames of a video that are marked as interlaced; others do not change."""

    def __init__(self, mode: str, ticks: Fraction) -> None:
        """Prepare the filter.

        Args:
            mode: A key of `MODES`: one frame for each frame, or for each field.
            ticks: Ticks of the source in one tick of the result, 1 or 1/2.
        """
        self._mode, self._ticks = MODES[mode], ticks
        self._graph: Graph | None = None

    def frames(self, decoded: Iterable[tuple[int, VideoFrame]]) -> Iterator[tuple[int, VideoFrame]]:
        """Yield tick and frame, in ticks of the result.

        Args:
            decoded: Ticks of the source and frames, in order.
        """
        for tick, frame in decoded:
            if self._graph is None:
                self._graph = self._built(frame)
            # The filter counts in its own ticks, half of these.
            frame.pts, frame.time_base = tick, Fraction(1)
            self._graph.push(frame)
            yield from self._pulled(self._graph)
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pulled(self._graph)

    def _pulled(self, graph: Graph) -> Iterator[tuple[int, VideoFrame]]:
        from av import VideoFrame
        from av.error import BlockingIOError, EOFError

        while True:
            try:
                frame = graph.pull()
            except (BlockingIOError, EOFError):
                return
            assert isinstance(frame, VideoFrame) and frame.pts is not None
            assert frame.time_base is not None
            yield int(frame.pts * frame.time_base / self._ticks), frame

    def _built(self, frame: VideoFrame) -> Graph:
        from av.filter import Graph

        graph = Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1)
        )
        filter_ = graph.add("bwdif", f"mode={self._mode}:parity=auto:deint=interlaced")
        sink = graph.add("buffersink")
        source.link_to(filter_)
        filter_.link_to(sink)
        graph.configure()
        return graph


def is_telecined(lumas: Iterable[npt.NDArray[np.uint8]]) -> bool:
    """Return whether frames of video hold film, spread over fields in a cycle of five.

    Args:
        lumas: (H, W) uint8, consecutive frames with motion; at least 40 to find a cycle.
    """
    scores = np.array([combing(luma) for luma in lumas])
    cycles = len(scores) // _CYCLE
    if cycles < _CYCLES:
        return False
    each = np.sort(np.median(scores[: cycles * _CYCLE].reshape(cycles, _CYCLE), axis=0))
    combed, clean = each[-_COMBED:], each[:-_COMBED]
    return bool(combed.min() > _COMB_RATIO * clean.max() and clean.max() < 2 * clean.min() + 1)


def combing(luma: npt.NDArray[np.uint8]) -> float:
    """Return how much more neighboring lines differ than lines of the same field."""
    lines = luma[:, ::2].astype(np.int16)
    between = np.abs(2 * lines[1:-1] - lines[:-2] - lines[2:]).astype(np.float64)
    within = np.abs(lines[2:] - lines[:-2]).astype(np.float64)
    return float(np.maximum(between - 2 * within, 0).mean()) + 1e-3
