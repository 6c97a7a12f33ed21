"""YUV4MPEG2, the stream that video programs exchange through pipes: a header line, then raw frames.

Its header gives size, rate, pixel aspect ratio, chroma subsampling and range, but no matrix: the
matrix is assumed from the size, as players do. Frames are evenly spaced, and there is no audio.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, Final

import numpy as np

from varfix.engine.errors import (
    DecodeEmptyError,
    DecodeTruncatedError,
    DecodeUnknownError,
    DecodeUnsupportedError,
)
from varfix.engine.video.clip import FULL, ByteSink, Clip, Frame, Layout, Samples, Tags

MAGIC: Final = b"YUV4MPEG2"
_FRAME: Final = b"FRAME"
_LONGEST_LINE: Final = 4096
_SAMPLINGS: Final = {"420": (2, 2), "422": (2, 1), "444": (1, 1), "mono": (1, 1)}
_KINDS: Final = {value: key for key, value in _SAMPLINGS.items() if key != "mono"}


class Y4mReader:
    """Reads a stream.

    Attributes:
        clip: Its header.
    """

    def __init__(self, stream: BinaryIO, *, interlaced: str = "refuse") -> None:
        """Read the header.

        Args:
            stream: Read from its position to its end; not necessarily seekable.
            interlaced: `ignore` to treat interlaced frames as progressive; else they are rejected.

        Raises:
            DecodeEmptyError: The stream is empty.
            DecodeUnknownError: It is not a y4m stream.
            DecodeUnsupportedError: It is interlaced, or has an unknown chroma subsampling.
        """
        self._stream = stream
        line = _line(stream)
        if not line:
            raise DecodeEmptyError("empty stream (0 bytes)")
        if not line.startswith(MAGIC):
            raise DecodeUnknownError(
                "not a y4m stream",
                hint="create one with `ffmpeg -i VIDEO -f yuv4mpegpipe -strict -1 -`",
            )
        self.clip = _clip(line.decode("ascii", "replace").split()[1:], interlaced)

    def frames(self) -> Iterator[Frame]:
        """Yield the frames, one tick apart.

        Raises:
            DecodeTruncatedError: The stream ends inside a frame.
        """
        number = 0
        while line := _line(self._stream):
            if not line.startswith(_FRAME):
                raise DecodeTruncatedError(f"no frame header after {number} frames")
            yield Frame(self._planes(number), number, 1)
            number += 1

    def _planes(self, number: int) -> tuple[Samples, ...]:
        layout = self.clip.layout
        data = _exactly(self._stream, layout.frame_bytes)
        if len(data) < layout.frame_bytes:
            raise DecodeTruncatedError(f"the stream ends inside frame {number}")
        samples = np.frombuffer(data, layout.dtype)
        planes, at = [], 0
        for height, width in layout.shapes:
            planes.append(samples[at : at + height * width].reshape(height, width))
            at += height * width
        return tuple(planes)


@dataclass
class Y4mWriter:
    """Writes a stream; the header is written before the first frame.

    Attributes:
        stream: Destination.
        clip: Source of rate and pixel aspect ratio.
        layout: Layout of the frames.
    """

    stream: ByteSink
    clip: Clip
    layout: Layout
    _begun: bool = False

    def add(self, frame: Frame, planes: tuple[Samples, ...]) -> None:
        """Write a frame, without its time."""
        if not self._begun:
            self.stream.write(header(self.clip, self.layout))
            self._begun = True
        self.stream.write(_FRAME + b"\n")
        for plane in planes:
            self.stream.write(np.ascontiguousarray(plane).data)
        self.stream.flush()


def header(clip: Clip, layout: Layout) -> bytes:
    """Return the header line of a stream."""
    aspect = clip.aspect or Fraction(0)
    sampling = "mono" if layout.gray else _KINDS[layout.across, layout.down]
    deep = "" if layout.depth == 8 else f"p{layout.depth}"
    if layout.gray and layout.depth > 8:
        deep = str(layout.depth)
    elif sampling == "420" and not deep:
        deep = "jpeg" if layout.centered else "mpeg2"
    words = [
        MAGIC.decode(),
        f"W{layout.width}",
        f"H{layout.height}",
        f"F{clip.rate.numerator}:{clip.rate.denominator}",
        "Ip",
        f"A{aspect.numerator}:{aspect.denominator if aspect else 0}",
        f"C{sampling}{deep}",
        f"XCOLORRANGE={'FULL' if layout.full else 'LIMITED'}",
    ]
    return " ".join(words).encode("ascii") + b"\n"


def _clip(words: list[str], interlaced: str) -> Clip:
    fields = {word[0]: word[1:] for word in words if not word.startswith("X")}
    extra = dict(word[1:].partition("=")[::2] for word in words if word.startswith("X"))
    if fields.get("I", "p") not in ("p", "?") and interlaced != "ignore":
        raise DecodeUnsupportedError(
            "the stream is interlaced",
            hint="write it with `ffmpeg -i FILE -vf bwdif=0 -f yuv4mpegpipe -strict -1 -`",
        )
    full = extra.get("COLORRANGE") == "FULL"
    try:
        width, height = int(fields["W"]), int(fields["H"])
        rate = _ratio(fields.get("F", "25:1")) or Fraction(25)
        aspect = _ratio(fields.get("A", "0:0"))
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise DecodeUnknownError("the y4m header has no valid size and rate") from error
    return Clip(
        layout=_layout(fields.get("C", "420"), width, height, full),
        container="yuv4mpegpipe",
        time_base=1 / rate,
        rate=rate,
        aspect=aspect,
        tags=Tags(range=FULL if full else 1),
    )


def _layout(kind: str, width: int, height: int, full: bool) -> Layout:
    sampling = next((name for name in _SAMPLINGS if kind.startswith(name)), None)
    rest = kind[len(sampling) :] if sampling else kind
    depth = int(rest.removeprefix("p")) if rest.removeprefix("p").isdecimal() else 8
    known = rest in ("", "jpeg", "mpeg2", "paldv") or depth in (10, 12, 16)
    if sampling is None or not known or width < 1 or height < 1:
        raise DecodeUnsupportedError(
            f"y4m frames of {width}x{height} in format {kind} are not supported",
            hint="convert them to 420, 422 or 444 with 8, 10, 12 or 16 bits",
        )
    across, down = _SAMPLINGS[sampling]
    return Layout(
        width,
        height,
        depth,
        across,
        down,
        gray=sampling == "mono",
        full=full,
        centered=rest in ("jpeg", "") and sampling == "420",
    )


def _ratio(text: str) -> Fraction | None:
    above, _, below = text.partition(":")
    return Fraction(int(above), int(below)) if int(below) and int(above) else None


def _line(stream: BinaryIO) -> bytes:
    return stream.readline(_LONGEST_LINE)


def _exactly(stream: BinaryIO, size: int) -> bytes:
    """Read `size` bytes; fewer only at the end, although a pipe returns any number at once."""
    pieces, missing = [], size
    while missing and (piece := stream.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)
