"""Reads the resolution that a file states, and converts it to what each format can state.

Pillow reports a resolution also for files that state none.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal

from varfix.engine.image import jpeg, png
from varfix.engine.image.metadata import exif_block
from varfix.engine.image.metadata.exif_block import SHORT, Directory, Value

Unit = Literal["inch", "cm", "meter", "none"]

ACROSS, DOWN, UNIT = 282, 283, 296
"""Tags of TIFF and EXIF."""

_RATIONAL: Final = 5
# Field types of numbers, with their `struct` codes.
_NUMBERS: Final = {3: "H", 4: "I", 11: "f", 12: "d"}
_FRACTIONS: Final = {_RATIONAL: "II", 10: "ii"}
_TIFF_UNITS: Final[dict[int, Unit]] = {1: "none", 2: "inch", 3: "cm"}
_TIFF_CODES: Final = {unit: code for code, unit in _TIFF_UNITS.items()}
_JFIF_UNITS: Final[dict[int, Unit]] = {0: "none", 1: "inch", 2: "cm"}
_JFIF_CODES: Final = {unit: code for code, unit in _JFIF_UNITS.items()}
_PNG_UNITS: Final[dict[int, Unit]] = {0: "none", 1: "meter"}
_INCH: Final = 0.0254
_PER_METER: Final = {"inch": 1 / _INCH, "cm": 100.0, "meter": 1.0}
# Offset of the pixels per meter in a BMP; a file with the header of OS/2 1.x has none.
_BMP_PLACE: Final = 38
_BMP_HEADER: Final = 40
_LARGEST: Final = 1e6
_LARGEST_DENOMINATOR: Final = 10_000


@dataclass(frozen=True)
class Resolution:
    """The resolution of an image.

    Attributes:
        across: Pixels per unit of width.
        down: Pixels per unit of height.
        unit: `none`: only the ratio of the two numbers has a meaning.
    """

    across: float
    down: float
    unit: Unit = "inch"

    @property
    def turned(self) -> Resolution:
        """The resolution after a quarter turn."""
        return Resolution(self.down, self.across, self.unit)


def read(kind: str, data: bytes, exif: bytes | None) -> Resolution | None:
    """Return the resolution that a file states in its own fields or in EXIF; None if it does not.

    Args:
        kind: Format of the file; not `tiff`.
        data: The whole file.
        exif: Its EXIF block.
    """
    own = _OWN[kind](data) if kind in _OWN else None
    found = [place for place in (own, _of_exif(exif)) if place]
    with_unit = [place for place in found if place.unit != "none"]
    return next(iter(with_unit or found), None)


def read_tiff(data: bytes, offset: int) -> Resolution | None:
    """Return the resolution that a directory of a TIFF states; None if it does not.

    Args:
        data: The whole file.
        offset: Offset of the directory.
    """
    try:
        order = exif_block.byte_order(data)[0]
        return _of_tags(exif_block.read_directories(data, [offset]).main, order)
    except (ValueError, struct.error):
        return None


def _of_exif(exif: bytes | None) -> Resolution | None:
    try:
        block = exif_block.parse(exif or b"")
    except ValueError:
        return None
    return _of_tags(block.main, block.order)


def _of_tags(tags: Directory, order: str) -> Resolution | None:
    across, down = (_number(tags.get(code), order) for code in (ACROSS, DOWN))
    unit = _number(tags.get(UNIT), order) if UNIT in tags else 2  # inches, says the standard
    if across is None or down is None or unit not in _TIFF_UNITS:
        return None
    return _stated(across, down, _TIFF_UNITS[int(unit)])


def _number(value: Value | None, order: str) -> float | None:
    if value is None or value.count != 1:
        return None
    if value.kind in _FRACTIONS:
        top, bottom = struct.unpack(order + _FRACTIONS[value.kind], value.data)
        return top / bottom if bottom else None
    code = _NUMBERS.get(value.kind)
    return float(struct.unpack(order + code, value.data)[0]) if code else None


def _of_jpeg(data: bytes) -> Resolution | None:
    found = jpeg.density_of(data)
    if found is None or found[0] not in _JFIF_UNITS:
        return None
    return _stated(found[1], found[2], _JFIF_UNITS[found[0]])


def _of_png(data: bytes) -> Resolution | None:
    for kind, payload in png.chunks(data):
        if kind == b"pHYs" and len(payload) == 9:
            across, down, unit = struct.unpack(">IIB", payload)
            return _stated(across, down, _PNG_UNITS[unit]) if unit in _PNG_UNITS else None
        if kind == b"IDAT":
            break
    return None


def _of_bmp(data: bytes) -> Resolution | None:
    if len(data) < _BMP_PLACE + 8 or struct.unpack_from("<I", data, 14)[0] < _BMP_HEADER:
        return None
    across, down = struct.unpack_from("<ii", data, _BMP_PLACE)
    return _stated(across, down, "meter")


_OWN: Final = {"jpeg": _of_jpeg, "png": _of_png, "bmp": _of_bmp}


def _stated(across: float, down: float, unit: Unit) -> Resolution | None:
    """Return a resolution, unless the numbers are invalid or say nothing."""
    if not (0 < across < _LARGEST and 0 < down < _LARGEST):
        return None
    if unit == "none" and across == down == 1:
        return None  # the fields of JPEG and TIFF are required; this is how they stay empty
    return Resolution(across, down, unit)


def jfif_fields(resolution: Resolution) -> tuple[int, int, int] | None:
    """Return the unit and the densities for a JPEG; None if they cannot be integers of 16 bits."""
    stated = _without_meters(resolution)
    across, down = round(stated.across), round(stated.down)
    if not (0 < across < 1 << 16 and 0 < down < 1 << 16):
        return None
    return _JFIF_CODES[stated.unit], across, down


def png_fields(resolution: Resolution) -> tuple[int, int, int]:
    """Return the numbers of pixels and the unit for a PNG."""
    if resolution.unit == "none":
        return round(resolution.across), round(resolution.down), 0
    return *pixels_per_meter(resolution), 1


def tiff_fields(resolution: Resolution) -> tuple[tuple[float, float], int]:
    """Return the numbers of pixels and the code of the unit for a TIFF."""
    stated = _without_meters(resolution)
    return (stated.across, stated.down), _TIFF_CODES[stated.unit]


def pixels_per_meter(resolution: Resolution) -> tuple[int, int]:
    """Return the numbers of pixels per meter.

    Raises:
        KeyError: The resolution has no unit.
    """
    scale = _PER_METER[resolution.unit]
    return round(resolution.across * scale), round(resolution.down * scale)


def exif_tags(resolution: Resolution, order: str) -> Directory:
    """Return the tags for an EXIF block.

    Args:
        resolution: Resolution with a unit; the standard of EXIF has no code for its absence.
        order: Byte order as `struct` writes it, `<` or `>`.
    """
    (across, down), unit = tiff_fields(resolution)
    return {
        ACROSS: _rational(across, order),
        DOWN: _rational(down, order),
        UNIT: Value(SHORT, 1, struct.pack(f"{order}H", unit)),
    }


def _rational(number: float, order: str) -> Value:
    ratio = Fraction(number).limit_denominator(_LARGEST_DENOMINATOR)
    return Value(_RATIONAL, 1, struct.pack(f"{order}II", ratio.numerator, ratio.denominator))


def _without_meters(resolution: Resolution) -> Resolution:
    """Return a resolution per meter in inches if these are whole, as most are; else per cm."""
    if resolution.unit != "meter":
        return resolution
    across, down = (round(value * _INCH) for value in (resolution.across, resolution.down))
    inches = Resolution(across, down, "inch")
    if pixels_per_meter(inches) == (resolution.across, resolution.down):
        return inches
    return Resolution(resolution.across / 100, resolution.down / 100, "cm")
