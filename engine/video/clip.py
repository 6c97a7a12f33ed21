"""Values that describe a video: the layout of its samples, its header, its frames, its color tags.

PyAV is imported only in this package; its modules exchange these values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[Any]

# Numbers of ISO/IEC 23091-2, which all containers use.
UNSPECIFIED: Final = 2
FULL: Final = 2  # range in FFmpeg's numbers; 1 is narrow, 0 is unspecified and means narrow


@dataclass(frozen=True, slots=True)
class Layout:
    """Storage of a frame's samples: planes of Y, Cb and Cr, and of alpha.

    Attributes:
        width: Pixels.
        height: Pixels.
        depth: Bits of a sample, 8 to 16; samples of more than 8 bits are stored in uint16.
        across: Horizontal chroma subsampling, 1 or 2.
        down: Vertical chroma subsampling, 1 or 2.
        gray: Only Y is stored.
        full: Full range; otherwise black is 16 and white 235 of 256.
        centered: Chroma samples are between their pixels, not at the left pixel.
        alpha: A plane of alpha, in full range, follows.
    """

    width: int
    height: int
    depth: int = 8
    across: int = 2
    down: int = 2
    gray: bool = False
    full: bool = False
    centered: bool = False
    alpha: bool = False

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of every plane."""
        whole = (self.height, self.width)
        part = (-(-self.height // self.down), -(-self.width // self.across))
        planes = (whole,) if self.gray else (whole, part, part)
        return (*planes, whole) if self.alpha else planes

    @property
    def dtype(self) -> npt.DTypeLike:
        """Type of a stored sample."""
        return np.uint8 if self.depth == 8 else np.dtype("<u2")

    @property
    def name(self) -> str:
        """FFmpeg's name of the pixel format, without the range."""
        deep = "" if self.depth == 8 else f"{self.depth}le"
        if self.gray:
            return f"gray{deep}"
        kind = {(2, 2): "420", (2, 1): "422", (1, 1): "444"}[self.across, self.down]
        return f"yuv{'a' if self.alpha else ''}{kind}p{deep}"

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame's samples."""
        size = np.dtype(self.dtype).itemsize
        return size * sum(height * width for height, width in self.shapes)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as stored.

    Attributes:
        planes: Samples in the shapes of `Layout.shapes`, of type `Layout.dtype`; never changed.
        pts: Presentation time in ticks of the video's time base.
        duration: Ticks.
    """

    planes: tuple[Samples, ...]
    pts: int
    duration: int


@dataclass(frozen=True, slots=True)
class Tags:
    """The file's color tags, in the numbers of ISO/IEC 23091-2; 2 means unspecified."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    range: int = 0


@dataclass(frozen=True, slots=True)
class HdrMetadata:
    """How an HDR video was mastered.

    Attributes:
        mastering: Of the mastering display: x and y of red, green, blue and white, then the least
            and the greatest light in cd/m2; empty if unknown.
        light: The greatest light of a pixel and of the mean of a frame in cd/m2; None if unknown.
        dynamic: Name of metadata that changes from frame to frame; empty without any.
    """

    mastering: tuple[Fraction, ...] = ()
    light: tuple[int, int] | None = None
    dynamic: str = ""


@dataclass(frozen=True)
class Clip:
    """A video's header.

    Attributes:
        layout: Layout of the frames during restoration.
        stored: FFmpeg's name of the pixel format in the file; may differ from the layout's.
        codec: FFmpeg's name of the codec of the frames.
        container: FFmpeg's short names of the container, separated by commas.
        stream: Index of the stream to restore.
        time_base: Seconds of a tick.
        rate: Average frames per second; an estimate if frames differ in duration.
        frames: Number of frames according to the header or its duration; None if unknown.
        start: Start time of the earliest stream on the video's own clock, in seconds.
        first: Tick of the first frame.
        end: Tick at which the last frame ends; None if unknown.
        seconds: Duration; None if unknown.
        aspect: Width of a pixel divided by its height; None if unspecified.
        display_matrix: Nine numbers; None for upright frames.
        tags: Color tags.
        hdr: How an HDR video was mastered.
        fields: One frame is made of each field of an interlaced video.
    """

    layout: Layout
    stored: str = "yuv420p"
    codec: str = "rawvideo"
    container: str = ""
    stream: int = 0
    time_base: Fraction = Fraction(1, 25)
    rate: Fraction = Fraction(25)
    frames: int | None = None
    start: Fraction = Fraction(0)
    first: int = 0
    end: int | None = None
    seconds: Fraction | None = None
    aspect: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None
    tags: Tags = Tags()
    hdr: HdrMetadata = HdrMetadata()
    fields: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether the container is made for transmission: it has no index, and any start time."""
        return self.container in ("mpegts", "mpeg")

    def frames_in(self, time_range: TimeRange) -> int:
        """Return the frames in a time range according to the header; 0 if unknown."""
        if time_range.whole or self.seconds is None:
            return self.frames or 0
        end = self.seconds if time_range.end is None else min(time_range.end, self.seconds)
        return max(0, round((end - (time_range.begin or Fraction(0))) * self.rate))

    def pixels_in(self, time_range: TimeRange) -> int:
        """Return the pixels of all frames in a time range, or of one if their number is unknown."""
        return self.layout.width * self.layout.height * max(1, self.frames_in(time_range))


class FrameStream(Protocol):
    """Frames that can be read only once, in order."""

    @property
    def clip(self) -> Clip:
        """Header of the stream."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Yield the frames."""
        ...


class ByteSink(Protocol):
    """Destination of bytes."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all bytes."""
        ...

    def flush(self) -> None:
        """Write buffered bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Pipe:
    """The ends of a restoration that are pipes; None for an end that is a file."""

    source: FrameStream | None = None
    target: ByteSink | None = None


@dataclass(frozen=True, slots=True)
class TimeRange:
    """A part of a video, in seconds from its beginning; None = up to that end."""

    begin: Fraction | None = None
    end: Fraction | None = None

    @property
    def whole(self) -> bool:
        """Whether the range covers the whole video."""
        return self.begin is None and self.end is None


WHOLE: Final = TimeRange()
NO_PIPE: Final = Pipe()
