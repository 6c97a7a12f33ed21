"""Values that describe a result to mux: encoded frames, and the streams to copy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from varfix.engine.video.clip import Clip, TimeRange
from varfix.engine.video.encode.segments import Segment
from varfix.engine.video.mux.iso_boxes import TrackDescription
from varfix.engine.video.mux.streams import ISO, ContainerTraits, StreamDigest, StreamKey


@dataclass(frozen=True)
class EncodedSegments:
    """The encoded frames.

    Attributes:
        paths: Files of the segments, in order.
        segments: Their descriptions.
    """

    paths: Sequence[Path]
    segments: Sequence[Segment]

    @property
    def times(self) -> list[tuple[int, int]]:
        """Presentation time and duration of every frame, in ticks of the video."""
        return [time for segment in self.segments for time in segment.times]


@dataclass(frozen=True)
class MuxInput:
    """The copied streams and the container of a result.

    Attributes:
        clip: Header of the source.
        source: File to copy other streams from; None to copy nothing.
        time_range: Part of the source.
        traits: Container to write.
        left_out: Indexes of streams of the source that are not copied.
        packets: Most packets of each stream to copy, for a trial; None for all.
    """

    clip: Clip
    source: Path | None
    time_range: TimeRange
    traits: ContainerTraits
    left_out: frozenset[int] = frozenset()
    packets: int | None = None

    @property
    def limits(self) -> tuple[Fraction | None, Fraction | None]:
        """Begin and end of the time range on the video's own clock, in seconds."""
        time_range, start = self.time_range, self.clip.start
        return (
            None if time_range.begin is None else time_range.begin + start,
            None if time_range.end is None else time_range.end + start,
        )

    @property
    def is_cut(self) -> bool:
        """Whether the result begins with another frame than the source."""
        return self.time_range.begin is not None and self.time_range.begin > 0

    def offset(self, first: int) -> int:
        """Return the ticks of the video by which everything moves to the beginning.

        A whole video keeps its times, unless it begins before 0: MP4 would hide frames before 0,
        and Matroska cannot store them. Transport streams begin at any time, which means nothing.

        Args:
            first: Tick of the first frame.
        """
        clip, begin = self.clip, self.limits[0]
        if begin is not None:
            return round(begin / clip.time_base)
        if clip.is_stream:
            return math.floor(clip.start / clip.time_base)
        # MP4 hides the samples with which an encoder of sound begins, by times before 0.
        is_same = self.traits.muxer in ISO and self.traits.origin.startswith("mov")
        earliest = Fraction(first) if is_same else clip.start / clip.time_base
        return min(0, first, int(earliest // 1))


@dataclass
class MuxResult:
    """The written streams, for comparison with the file.

    Attributes:
        digests: Digests of the copied streams.
        descriptions: Descriptions of the data tracks among them, by the number of the track.
    """

    digests: dict[StreamKey, StreamDigest] = field(default_factory=dict)
    descriptions: dict[int, TrackDescription] = field(default_factory=dict)
