"""Reads the coding of a JPEG, so that its result gets the same coding and about the same size.

A finer coding than that of the source would preserve its artifacts at the cost of many bytes; a
coarser coding would lose details that the model has restored.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from PIL import ImageFile, JpegImagePlugin

Table = tuple[int, ...]
JpegQuality = int | Literal["source"]

LEAST_QUALITY: Final = 90
"""Least quality of restored images: below, blocks of 8 x 8 pixels are visible again."""

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
    """

    tables: tuple[Table, ...]
    subsampling: int
    progressive: bool


def coding_of(image: ImageFile.ImageFile, *, turned: bool) -> JpegCoding | None:
    """Return the coding of a JPEG for its upright pixels; None if Pillow cannot write that coding.

    Args:
        image: Image of any format, opened by Pillow.
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
    return JpegCoding(tables, subsampling, bool(image.info.get("progressive")))


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
) -> dict[str, Any]:
    """Return Pillow's options for a JPEG.

    Args:
        coding: Coding of the source; None if it is not a JPEG.
        channels: Channels of the result: 1, 3, or 4 for CMYK.
        quality: A quality, without subsampling; or `source`: as the source, 95 for other formats.
        restored: The pixels are not those of the source.
    """
    if quality != "source":
        return {"quality": quality, "subsampling": _FULL_CHROMA}
    if coding is None or len(coding.tables) != channels:
        return {"quality": _UNKNOWN_QUALITY, "subsampling": _FULL_CHROMA}
    # Pillow writes all four channels of CMYK with the first table.
    tables = coding.tables[:1] if channels == 4 else coding.tables
    if restored:
        least = (_standard(_LUMA), _standard(_CHROMA), _standard(_CHROMA))
        # Compared by sum: single steps of a camera's tables may be larger and others smaller.

        tables = tuple(min(pair, key=sum) for pair in zip(tables, least, strict=False))
    return {
        "qtables": _without_repetition(tables),
        "subsampling": coding.subsampling,
        "progressive": coding.progressive or None,
        "optimize": True,
    }


def _without_repetition(tables: tuple[Table, ...]) -> list[Table]:
    """Return the tables without the last ones that repeat the one before, which stands for them."""
    kept = list(tables)
    while len(kept) > 1 and kept[-1] == kept[-2]:
        kept.pop()
    return kept


def _standard(table: Table) -> Table:
    """Return a standard table at the least quality, scaled as libjpeg does."""
    scale = 200 - 2 * LEAST_QUALITY
    return tuple(max(1, (step * scale + 50) // 100) for step in table)
