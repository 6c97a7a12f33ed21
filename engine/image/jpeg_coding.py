"""Reads the coding of a JPEG, so that its result gets the same coding and about the same size.

Restored pixels deserve a finer coding than that of a coarse source, which would make the same
artifacts again. How fine it can be depends on the image: without its noise it takes fewer bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from PIL import ImageFile, JpegImagePlugin

from varfix.engine.image.jpeg import scans

Table = tuple[int, ...]
JpegQuality = int | Literal["source"]

BEST_QUALITY: Final = 90
"""Quality of restored images, if the source's is not better and the result does not grow."""

LEAST_QUALITY: Final = 60
"""Least quality of restored images: below, blocks of 8 x 8 pixels are plainly visible again."""

MOST_GROWTH: Final = 1.02
"""Largest size of the coded pixels of a restored image, relative to the source's."""

# Codings between the best and the least quality, both included.
_LEVELS: Final = 9

_UNKNOWN_QUALITY: Final = 95
_FULL_CHROMA: Final = 0
_SIDE: Final = 8
# Pillow's number for horizontal and vertical subsampling, or for the next finer one that it writes.
_SUBSAMPLINGS: Final[dict[tuple[float, float], int]] = {
    **{(1, 1): 0, (2, 1): 1, (2, 2): 2},
    **{(1, 2): 0, (4, 1): 1, (4, 2): 2},
}
_RGB_NAMES: Final = (ord("R"), ord("G"), ord("B"))
# Tables of quality 50 (ITU-T T.81, K.1): luma and chroma, row by row.
_LUMA: Final[Table] = (
    *(16, 11, 10, 16, 24, 40, 51, 61),
    *(12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56),
    *(14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77),
    *(24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101),
    *(72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA: Final[Table] = (
    *(17, 18, 24, 47, 99, 99, 99, 99),
    *(18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99),
    *(47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)


@dataclass(frozen=True)
class JpegCoding:
    """The coding of a JPEG.

    Attributes:
        tables: Quantization steps of each component (gray; luma and chroma; four inks), row by row.
        subsampling: Chroma subsampling as Pillow numbers it: 0 = none, 1 = 4:2:2, 2 = 4:2:0.
        progressive: The image is stored in several scans, which takes less space.
        size: Bytes of the coded pixels.
    """

    tables: tuple[Table, ...]
    subsampling: int
    progressive: bool
    size: int


def coding_of(image: ImageFile.ImageFile, data: bytes, *, turned: bool) -> JpegCoding | None:
    """Return the coding of a JPEG for its upright pixels; None if Pillow cannot write that coding.

    Args:
        image: Image of any format, opened by Pillow.
        data: The file.
        turned: Width and height will be swapped.
    """
    if not isinstance(image, JpegImagePlugin.JpegImageFile) or _is_stored_as_rgb(image):
        return None
    try:
        tables = tuple(tuple(image.quantization[number]) for *_, number in image.layer)
    except KeyError:
        return None  # a table is missing: the decoder will report it
    subsampling = _subsampling_of(image.layer, turned=turned)
    if turned:
        tables = tuple(_transposed(table) for table in tables)
    progressive = bool(image.info.get("progressive"))
    return JpegCoding(tables, subsampling, progressive, size_of_scans(data))


def size_of_scans(data: bytes) -> int:
    """Return the bytes of the coded pixels of a JPEG, without headers and metadata."""
    return sum(end - start for _, start, end in scans(data))


def _is_stored_as_rgb(image: JpegImagePlugin.JpegImageFile) -> bool:
    names = tuple(name for name, *_ in image.layer)
    return len(names) == 3 and (image.info.get("adobe_transform") == 0 or names == _RGB_NAMES)


def _subsampling_of(layer: list[tuple[int, int, int, int]], *, turned: bool) -> int:
    if len(layer) != 3:
        return _FULL_CHROMA
    (_, *luma, _), (_, *chroma, _), (_, *other, _) = layer
    if chroma != other or 0 in chroma:
        return _FULL_CHROMA
    across, down = (whole // part for whole, part in zip(luma, chroma, strict=True))
    return _SUBSAMPLINGS.get((down, across) if turned else (across, down), _FULL_CHROMA)


def _transposed(table: Table) -> Table:
    return tuple(table[row * _SIDE + column] for column in range(_SIDE) for row in range(_SIDE))


def save_options(
    coding: JpegCoding | None, channels: int, quality: JpegQuality, *, restored: bool
) -> list[dict[str, Any]]:
    """Return Pillow's options for a JPEG, from the finest coding to the coarsest that may be used.

    Args:
        coding: Coding of the source; None if it is not a JPEG.
        channels: Channels of the result: 1, 3, or 4 for CMYK.
        quality: A quality, without subsampling; or `source`: as the source, 95 for other formats.
        restored: The pixels are not those of the source.

    Returns:
        One choice, or several of which the first is the best whose result is small enough (see
        `fits`); the last is to be used if none is.
    """
    if quality != "source":
        return [{"quality": quality, "subsampling": _FULL_CHROMA}]
    if coding is None or len(coding.tables) != channels:
        return [{"quality": _UNKNOWN_QUALITY, "subsampling": _FULL_CHROMA}]
    # Pillow writes all four channels of CMYK with the first table.
    tables = coding.tables[:1] if channels == 4 else coding.tables
    common = {
        "subsampling": coding.subsampling,
        "progressive": coding.progressive or None,
        "optimize": True,
    }
    choices = _levels(tables) if restored else [tables]
    return [{"qtables": _without_repetition(choice), **common} for choice in choices]


def fits(data: bytes, coding: JpegCoding | None) -> bool:
    """Return whether a JPEG is not much larger than its source."""
    return coding is None or size_of_scans(data) <= MOST_GROWTH * coding.size


def _levels(source: tuple[Table, ...]) -> list[tuple[Table, ...]]:
    """Return the tables for a restored image, from the best quality to the least."""
    best, least = (_no_coarser(source, quality) for quality in (BEST_QUALITY, LEAST_QUALITY))
    if best == least:
        return [best]
    return [
        tuple(_between(*pair, level / (_LEVELS - 1)) for pair in zip(best, least, strict=True))
        for level in range(_LEVELS)
    ]


def _no_coarser(source: tuple[Table, ...], quality: int) -> tuple[Table, ...]:
    """Return the tables of the source, or of a quality where that is finer."""
    standard = (_standard(_LUMA, quality), *[_standard(_CHROMA, quality)] * 2)
    # Compared by sum: single steps of a camera's tables may be larger and others smaller.
    return tuple(min(pair, key=sum) for pair in zip(source, standard, strict=False))


def _between(fine: Table, coarse: Table, share: float) -> Table:
    """Return the geometric mean of two tables, with the given share of the second."""
    return tuple(round(a ** (1.0 - share) * b**share) for a, b in zip(fine, coarse, strict=True))


def _without_repetition(tables: tuple[Table, ...]) -> list[Table]:
    """Return the tables without the last ones that repeat the one before, which stands for them."""
    kept = list(tables)
    while len(kept) > 1 and kept[-1] == kept[-2]:
        kept.pop()
    return kept


def _standard(table: Table, quality: int) -> Table:
    """Return a standard table at a quality of 50 or more, scaled as libjpeg does."""
    scale = 200 - 2 * quality
    return tuple(max(1, (step * scale + 50) // 100) for step in table)
