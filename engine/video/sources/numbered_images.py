"""Numbered images as a video: `frames/%04d.png`, as renderers and scanners of film write them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from varfix.engine.errors import DecodeUnsupportedError, SourceReadError
from varfix.engine.system.files import open_source

DEMUXER: Final = "image2"
DEFAULT_RATE: Final = Fraction(25)
"""Frames per second where the user gives none."""

_EXTENSIONS: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"})
_NUMBER: Final = re.compile(r"%(?:0(\d+))?d")
# Rates of NTSC are given rounded, as 23.976.
_NTSC: Final = Fraction(1000, 1001)
_ROUNDING: Final = Fraction(1, 200)


@dataclass(frozen=True, slots=True)
class ImagesIdentity:
    """Size and time of all images together, as of one file.

    Attributes:
        st_size: Bytes of all images.
        st_mtime_ns: Time of the latest change.
    """

    st_size: int
    st_mtime_ns: int


@dataclass(frozen=True)
class NumberedImages:
    """The images that a pattern names.

    Attributes:
        pattern: Path whose name contains `%d`, or `%04d` for four digits.
        first: The first number.
        count: How many images follow one another.
    """

    pattern: Path
    first: int
    count: int

    @property
    def identity(self) -> ImagesIdentity:
        """Identity of all images together."""
        numbers = range(self.first, self.first + self.count)
        stats = [(self.pattern.parent / (self.pattern.name % number)).stat() for number in numbers]
        return ImagesIdentity(
            sum(stat.st_size for stat in stats), max(stat.st_mtime_ns for stat in stats)
        )

    @property
    def address(self) -> str:
        """The pattern for FFmpeg; `%` in the names of folders is no number there."""
        folder = str(self.pattern.parent.absolute()).replace("%", "%%")
        return f"{folder}/{self.pattern.name}"


def is_pattern(path: Path) -> bool:
    """Return whether a path names numbered images, and no file."""
    return len(_NUMBER.findall(path.name)) == 1 and not path.exists()


def numbered_images(path: Path) -> NumberedImages:
    """Find the images that a pattern names.

    Raises:
        SourceReadError: There is none, or one is missing between others.
        DecodeUnsupportedError: Their format is not supported.
    """
    if path.suffix.lower() not in _EXTENSIONS:
        known = ", ".join(sorted(extension[1:] for extension in _EXTENSIONS))
        raise DecodeUnsupportedError(f"numbered images must be {known}")
    numbers = sorted(_numbers(path))
    if not numbers:
        raise SourceReadError("no image has such a name")
    gap = next((n for n, at in enumerate(numbers, numbers[0]) if n != at), None)
    if gap is not None:
        raise SourceReadError(f"{path.name % gap} is missing between other images")
    return NumberedImages(path, numbers[0], len(numbers))


def identity_of(path: Path) -> ImagesIdentity:
    """Return the identity of a file, or of numbered images together.

    Raises:
        SourceReadError: It cannot be read.
    """
    if is_pattern(path):
        return numbered_images(path).identity
    with open_source(path) as file:
        stat = os.fstat(file.fileno())
    return ImagesIdentity(stat.st_size, stat.st_mtime_ns)


def frame_rate(value: float | None) -> Fraction:
    """Return frames per second as given, such as 24 or 23.976, as an exact rate."""
    if value is None:
        return DEFAULT_RATE
    rate = Fraction(str(value))
    ntsc = round(rate / _NTSC) * _NTSC
    return ntsc if rate.denominator > 1 and abs(ntsc - rate) < _ROUNDING else rate


def _numbers(path: Path) -> list[int]:
    """Return the numbers of the files whose names fit the pattern."""
    before, digits, after = _NUMBER.split(path.name)
    name = re.compile(f"{re.escape(before)}(\\d+){re.escape(after)}")
    try:
        found = [
            match[1] for entry in path.parent.iterdir() if (match := name.fullmatch(entry.name))
        ]
    except OSError as error:
        raise SourceReadError(f"cannot be read ({(error.strerror or '').lower()})") from error
    width = int(digits or 0)
    return [int(text) for text in found if text == f"{int(text):0{width}d}"]
