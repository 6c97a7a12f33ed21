"""Reads ICC profiles that consist of tone curves and a matrix, as those of displays and cameras do.

Pillow runs LittleCMS at 8 bits only, too coarse for 16-bit images. Nearly every wide-gamut image
(Display P3, Adobe RGB, ProPhoto, Rec. 2020) has a profile simple enough for float arithmetic;
`varfix.engine.image.color` converts with LittleCMS for all other profiles.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_HEADER: Final = 128
_MAX_TAGS: Final = 200
# Parameters of a `para` curve in the file, by its kind.
_PARAMETERS: Final = (1, 3, 4, 5, 7)


class ToneCurve(Protocol):
    """Relation of one channel of a file to light; both directions on floats in [0, 1]."""

    def to_linear(self, values: Floats) -> Floats:
        """Convert stored values to light."""
        ...

    def to_encoded(self, light: Floats) -> Floats:
        """Convert light to stored values; the inverse of `to_linear`."""
        ...


@dataclass(frozen=True)
class ParametricCurve:
    """`(a x + b)^g + e` from d on, `c x + f` below: every formula of the standard."""

    g: float
    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 0.0
    f: float = 0.0

    def to_linear(self, values: Floats) -> Floats:
        """Convert stored values to light."""
        steep = np.maximum(values * np.float32(self.a) + np.float32(self.b), 0)
        steep **= np.float32(self.g)
        straight = values * np.float32(self.c) + np.float32(self.f)
        low = values < np.float32(self.d)
        return np.where(low, straight, steep + np.float32(self.e)).astype(np.float32)

    def to_encoded(self, light: Floats) -> Floats:
        """Convert light to stored values."""
        steep = np.maximum(light - np.float32(self.e), 0) ** np.float32(1 / self.g)
        steep = (steep - np.float32(self.b)) / np.float32(self.a)
        if self.c <= 0:
            lowest: Floats = np.maximum(steep, np.float32(self.d))
            return lowest
        straight = (light - np.float32(self.f)) / np.float32(self.c)
        knee = np.float32(self.c * self.d + self.f)
        return np.where(light < knee, straight, steep).astype(np.float32)


@dataclass(frozen=True)
class SampledCurve:
    """Samples at equal steps with linear interpolation; monotonic."""

    samples: Floats

    def to_linear(self, values: Floats) -> Floats:
        """Convert stored values to light."""
        return np.interp(values, self._steps(), self.samples).astype(np.float32)

    def to_encoded(self, light: Floats) -> Floats:
        """Convert light to stored values."""
        return np.interp(light, self.samples, self._steps()).astype(np.float32)

    def _steps(self) -> Floats:
        return np.linspace(0, 1, len(self.samples), dtype=np.float32)


SRGB_CURVE: Final = ParametricCurve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
# From linear sRGB to the D50 white of profiles, as LittleCMS computes it.
SRGB_MATRIX: Final = np.array(
    [
        [0.43606567, 0.38514709, 0.14306641],
        [0.22248840, 0.71687317, 0.06060791],
        [0.01391602, 0.09707642, 0.71409607],
    ]
)


@dataclass(frozen=True)
class MatrixProfile:
    """A profile of tone curves: gray with one, or RGB with three and a matrix to D50 XYZ.

    Attributes:
        curves: One per channel.
        matrix: (3, 3) float64, columns for red, green, blue; None for gray.
    """

    curves: tuple[ToneCurve, ...]
    matrix: npt.NDArray[np.float64] | None = None


def color_model_of(profile: bytes) -> str:
    """Return the color model of a profile: `RGB`, `GRAY`, `CMYK`, ….

    Raises:
        ValueError: The data is not an ICC profile.
    """
    if len(profile) < _HEADER + 4 or profile[36:40] != b"acsp":
        raise ValueError("not an ICC profile")
    return profile[16:20].decode("latin-1").strip()


def read_matrix_profile(profile: bytes) -> MatrixProfile | None:
    """Read a profile of tone curves, with a matrix or for gray; return None for any other.

    Raises:
        ValueError: The profile is damaged.
    """
    kind = color_model_of(profile)
    try:
        tags = _tags(profile)
        # A profile's lookup tables have precedence over its curves.
        if profile[20:24] != b"XYZ " or tags.keys() & {b"A2B0", b"A2B1", b"D2B0", b"D2B1"}:
            return None
        if kind == "GRAY":
            return MatrixProfile((_curve(tags[b"kTRC"]),))
        if kind != "RGB":
            return None
        matrix = np.column_stack([_xyz(tags[tag]) for tag in (b"rXYZ", b"gXYZ", b"bXYZ")])
        curves = tuple(_curve(tags[tag]) for tag in (b"rTRC", b"gTRC", b"bTRC"))
    except (KeyError, IndexError, struct.error) as error:
        raise ValueError("the profile is damaged") from error
    if abs(np.linalg.det(matrix)) < 1e-4:
        raise ValueError("the profile's primaries are collinear")
    return MatrixProfile(curves, matrix)


def _tags(profile: bytes) -> dict[bytes, bytes]:
    count = struct.unpack_from(">I", profile, _HEADER)[0]
    if count > _MAX_TAGS:
        raise ValueError("the profile has too many tags")
    found = {}
    for index in range(count):
        name, at, size = struct.unpack_from(">4sII", profile, _HEADER + 4 + 12 * index)
        if at + size > len(profile):
            raise ValueError("the profile is truncated")
        found[name] = profile[at : at + size]
    return found


def _xyz(tag: bytes) -> list[float]:
    return [value / 65536 for value in struct.unpack_from(">3i", tag, 8)]


def _curve(tag: bytes) -> ToneCurve:
    if tag[:4] == b"curv":
        return _table(tag)
    if tag[:4] != b"para":
        raise ValueError("unknown type of tone curve")
    kind = struct.unpack_from(">H", tag, 8)[0]
    values = [v / 65536 for v in struct.unpack_from(f">{_PARAMETERS[kind]}i", tag, 12)]
    return _check_power(_power(kind, values))


def _power(kind: int, values: list[float]) -> ParametricCurve:
    """Convert the five types of the standard (ICC.1:2022, 10.18) to the form of the last one."""
    if kind == 0:
        return ParametricCurve(values[0])
    g, a, b = values[:3]
    if a <= 0:
        raise ValueError("tone curve is not monotonic")
    if kind in (1, 2):
        offset = values[3] if kind == 2 else 0.0
        return ParametricCurve(g, a, b, 0.0, -b / a, offset, offset)
    c, d = values[3:5]
    e, f = values[5:7] if kind == 4 else (0.0, 0.0)
    return ParametricCurve(g, a, b, c, d, e, f)


def _check_power(curve: ParametricCurve) -> ParametricCurve:
    if not 0.05 < curve.g < 20 or curve.c < 0:
        raise ValueError("tone curve is not monotonic")
    return curve


def _table(tag: bytes) -> ToneCurve:
    count = struct.unpack_from(">I", tag, 8)[0]
    if count == 0:
        return ParametricCurve(1.0)
    if count == 1:
        return _check_power(ParametricCurve(struct.unpack_from(">H", tag, 12)[0] / 256))
    if 12 + 2 * count > len(tag):
        raise ValueError("tone curve is truncated")
    samples = np.frombuffer(tag, ">u2", count, 12).astype(np.float32) / np.float32(65535)
    if (np.diff(samples) < 0).any() or samples[0] == samples[-1]:
        raise ValueError("tone curve is not monotonic")
    return SampledCurve(samples)
