"""What a clip is, as values: how its samples are stored, what its frames say, what it is tagged.

Only `video_*.py` know the library that reads and writes files; these values pass between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import PurePath
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[Any]

# Names that are taken for clips in a folder.
CLIP_EXTENSIONS: Final = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi"})
# End of the name of the folder in which a clip's finished segments lie.
SEGMENTS: Final = ".varfix"
_FOR_WEBM: Final = ("auto", "av1", "libsvtav1", "libaom-av1", "libvpx-vp9")
# Numbers of ISO/IEC 23091-2, which all containers use.
UNSPECIFIED: Final = 2
FULL: Final = 2  # range in FFmpeg's numbers; 1 is narrow, 0 says nothing and means narrow


def is_clip(path: PurePath) -> bool:
    """Whether a file's name is that of a clip."""
    return path.suffix.lower() in CLIP_EXTENSIONS


def result_suffix(suffix: str, codec: str) -> str:
    """The end of the name of a result in a folder: the source's, where that container is written.

    Args:
        suffix: of the source, with its dot.
        codec: that was asked for.
    """
    if suffix.lower() == ".avi" or codec == "ffv1":
        return ".mkv"
    return ".mkv" if suffix.lower() == ".webm" and codec not in _FOR_WEBM else suffix


@dataclass(frozen=True, slots=True)
class Layout:
    """How the samples of a frame are stored: planes of Y, Cb and Cr.

    Attributes:
        width: of the image, in pixels.
        height: of the image, in pixels.
        depth: bits of a sample, 8 to 16; above 8 stored in uint16.
        across: pixels that share a color sample horizontally, 1 or 2.
        down: the same vertically.
        gray: there is no color, only Y.
        full: samples span all codes; else black is at 16 and white at 235 of 256.
        centered: color samples lie between the pixels they belong to, not on the left one.
    """

    width: int
    height: int
    depth: int = 8
    across: int = 2
    down: int = 2
    gray: bool = False
    full: bool = False
    centered: bool = False

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of every plane."""
        whole = (self.height, self.width)
        part = (-(-self.height // self.down), -(-self.width // self.across))
        return (whole,) if self.gray else (whole, part, part)

    @property
    def dtype(self) -> npt.DTypeLike:
        """Type of a stored sample."""
        return np.uint8 if self.depth == 8 else np.dtype("<u2")

    @property
    def name(self) -> str:
        """FFmpeg's name of it, without the range."""
        deep = "" if self.depth == 8 else f"{self.depth}le"
        if self.gray:
            return f"gray{deep}"
        kind = {(2, 2): "420", (2, 1): "422", (1, 1): "444"}[self.across, self.down]
        return f"yuv{kind}p{deep}"

    @property
    def frame_bytes(self) -> int:
        """Bytes of one frame's samples."""
        size = np.dtype(self.dtype).itemsize
        return size * sum(height * width for height, width in self.shapes)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as stored.

    Attributes:
        planes: as `Layout.shapes` and `Layout.dtype` say; never changed.
        pts: when it is shown, in ticks of the clip's time base.
        duration: how long, in ticks.
    """

    planes: tuple[Samples, ...]
    pts: int
    duration: int


@dataclass(frozen=True, slots=True)
class Tags:
    """What the file says of its colors, in the numbers of ISO/IEC 23091-2; 2 says nothing."""

    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    matrix: int = UNSPECIFIED
    range: int = 0


@dataclass(frozen=True)
class Clip:
    """A clip's header.

    Attributes:
        layout: of the frames as varfix works on them.
        stored: FFmpeg's name of the pixel format in the file; may be another than the layout's.
        codec: of the frames, by FFmpeg's name.
        container: FFmpeg's short names of the container, by commas.
        stream: number of the stream that is restored.
        time_base: seconds of a tick.
        rate: frames per second, on average; only a guess where frames vary in length.
        frames: how many there are, by the header or by its duration; None when it tells neither.
        start: seconds on the clip's own clock at which it begins.
        end: tick at which its last frame ends, where the header tells.
        seconds: how long it is, None when unknown.
        aspect: width of a pixel by its height; None when not said.
        display_matrix: the nine numbers of a display matrix, None for upright frames.
        tags: of the colors.
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
    end: int | None = None
    seconds: Fraction | None = None
    aspect: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None
    tags: Tags = Tags()

    def frames_in(self, cut: TimeRange) -> int:
        """How many frames a part has, as far as the header tells; 0 when it does not."""
        if cut.whole or self.seconds is None:
            return self.frames or 0
        end = self.seconds if cut.end is None else min(cut.end, self.seconds)
        return max(0, round((end - (cut.begin or Fraction(0))) * self.rate))

    def pixels_in(self, cut: TimeRange) -> int:
        """Pixels of all frames in a part; of one where their number is not known."""
        return self.layout.width * self.layout.height * max(1, self.frames_in(cut))


class FrameStream(Protocol):
    """Frames that come once, one after the other, and are gone."""

    @property
    def clip(self) -> Clip:
        """What is known of them."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Yield the frames."""
        ...


class ByteSink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes | memoryview, /) -> int:
        """Write all of them."""
        ...

    def flush(self) -> None:
        """Hand over what is buffered."""
        ...


@dataclass(frozen=True, slots=True)
class Pipe:
    """Ends of a clip that are no files; None for an end that is one."""

    source: FrameStream | None = None
    target: ByteSink | None = None


@dataclass(frozen=True, slots=True)
class TimeRange:
    """The part of a clip that is wanted, in seconds from its beginning; None = to that end."""

    begin: Fraction | None = None
    end: Fraction | None = None

    @property
    def whole(self) -> bool:
        """Whether nothing is cut off."""
        return self.begin is None and self.end is None


WHOLE: Final = TimeRange()
NO_PIPE: Final = Pipe()
