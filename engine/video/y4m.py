"""YUV4MPEG2, the stream that video programs pass through pipes: a header line, then bare frames.

It tells size, rate, pixel aspect, sampling of color and range, but no matrix: that is assumed by
the size, as players do. Frames are evenly spaced; sound does not go through it.
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
        clip: what its header says.
    """

    def __init__(self, stream: BinaryIO, *, interlaced: str = "refuse") -> None:
        """Read the header.

        Args:
            stream: read from where it is, to its end; it need not be seekable.
            interlaced: `refuse`, or `ignore` to take half-frames for frames.

        Raises:
            DecodeEmptyError: There is nothing.
            DecodeUnknownError: It is another kind of stream.
            DecodeUnsupportedError: It is interlaced, or of an unknown sampling.
        """
        self._stream = stream
        line = _line(stream)
        if not line:
            raise DecodeEmptyError("empty stream (0 bytes)")
        if not line.startswith(MAGIC):
            raise DecodeUnknownError(
                "not a y4m stream",
                hint="make one with `ffmpeg -i CLIP -f yuv4mpegpipe -strict -1 -`",
            )
        self.clip = _clip(line.decode("ascii", "replace").split()[1:], interlaced)

    def frames(self) -> Iterator[Frame]:
        """Yield the frames, a tick apart.

        Raises:
            DecodeTruncatedError: The stream ends inside a frame.
        """
        number = 0
        while line := _line(self._stream):
            if not line.startswith(_FRAME):
                raise DecodeTruncatedError(f"what follows frame {number} is no frame")
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
    """Writes a stream; its header goes before the first frame.

    Attributes:
        stream: where to.
        clip: what is told of it: size, rate, pixel aspect.
        layout: of the frames.
    """

    stream: ByteSink
    clip: Clip
    layout: Layout
    _begun: bool = False

    def add(self, frame: Frame, planes: tuple[Samples, ...]) -> None:
        """Write a frame; its time is not told."""
        if not self._begun:
            self.stream.write(header(self.clip, self.layout))
            self._begun = True
        self.stream.write(_FRAME + b"\n")
        for plane in planes:
            self.stream.write(np.ascontiguousarray(plane).data)
        self.stream.flush()


def header(clip: Clip, layout: Layout) -> bytes:
    """Return the first line of a stream."""
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
    said = {word[0]: word[1:] for word in words if not word.startswith("X")}
    extra = dict(word[1:].partition("=")[::2] for word in words if word.startswith("X"))
    if said.get("I", "p") not in ("p", "?") and interlaced == "refuse":
        raise DecodeUnsupportedError(
            "the stream is interlaced", hint="deinterlace it first, for example with FFmpeg's bwdif"
        )
    full = extra.get("COLORRANGE") == "FULL"
    try:
        width, height = int(said["W"]), int(said["H"])
        rate = _ratio(said.get("F", "25:1")) or Fraction(25)
        aspect = _ratio(said.get("A", "0:0"))
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise DecodeUnknownError("the y4m header does not tell size and rate") from error
    return Clip(
        layout=_layout(said.get("C", "420"), width, height, full),
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
            f"y4m frames of {width}x{height}, kind {kind}",
            hint="make it 420, 422 or 444 with 8, 10, 12 or 16 bits",
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
    """Read `size` bytes, less only at the end: a pipe gives what it has."""
    pieces, missing = [], size
    while missing and (piece := stream.read(missing)):
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)
