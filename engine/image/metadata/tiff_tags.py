"""Which tags of a TIFF speak of the image and stay, and which speak of how its samples are stored.

A TIFF keeps both kinds in one directory. The result is stored in another way than the source, so
that tags of the second kind would be false there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from varfix.engine.image.metadata.exif import ORIENTATION
from varfix.engine.image.metadata.exif_block import (
    EXIF_POINTER,
    GPS_POINTER,
    MAKER_NOTE,
    Directory,
    ExifBlock,
    Value,
    gather,
    pack,
    parse,
)
from varfix.engine.image.metadata.maker_note import breaks_when_moved

XMP: Final = 700
IPTC: Final = 33723
PHOTOSHOP: Final = 34377
ICC: Final = 34675
DESCRIPTION: Final = 270
PHOTOSHOP_LAYERS: Final = 37724

# GeoTIFF and what GDAL adds: where on the Earth each pixel lies.
GEO: Final = frozenset({33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113})
# What EXIF defines for its main directory, and what Windows and printers add: fit for any format.
EXIF_MAIN: Final = frozenset(
    {11, 269, 270, 271, 272, 285, 297, 301, 305, 306, 315, 316, 318, 319, 33432}
    | {18246, 18249, 40091, 40092, 40093, 40094, 40095, 42016, 50341}
)
_STORAGE: Final = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 282}
    | {283, 284, 288, 289, 290, 291, 292, 293, 296, 317, *range(320, 348), *range(512, 533), 559}
    | {33421, 33422, 34665, 34853, 34892, 37399, 40965}
    | {XMP, IPTC, PHOTOSHOP, ICC, PHOTOSHOP_LAYERS}
    | set(range(50706, 51126))  # of raw files
)
# A single value larger than this is data of some program, not a statement about the image.
_LARGEST: Final = 1 << 20
_CLASSIC_KINDS: Final = range(1, 13)

# What tifffile and libtiff print into files when nobody says anything.
_SHAPED: Final = b'{"shape":'

MAKER_NOTE_LOST: Final = "the maker note of the camera is not kept: moved, its offsets would break"


@dataclass(frozen=True)
class TiffMetadata:
    """Metadata of a TIFF file.

    Attributes:
        exif: Tags on the image as an EXIF block without prefix; None = there are none.
        xmp: XMP packet.
        iptc: IPTC record.
        resources: Photoshop's image resources.
        icc: Color profile.
        warnings: What cannot be kept in any file, one sentence each.
    """

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    resources: bytes | None = None
    icc: bytes | None = None
    warnings: tuple[str, ...] = ()


def read(data: bytes, offsets: list[int]) -> TiffMetadata:
    """Read the metadata of a TIFF file.

    Args:
        data: The whole file.
        offsets: Of the directories that speak of the image; a later one overrides an earlier one.

    Raises:
        ValueError: A directory is damaged.
    """
    block = gather(data, offsets)
    main = block.main
    warnings = []
    if PHOTOSHOP_LAYERS in main:
        warnings.append("the layers of Photoshop are not kept")
    kept = {code: value for code, value in main.items() if _is_statement(code, value)}
    exif = dict(block.exif)
    if MAKER_NOTE in exif and breaks_when_moved(exif[MAKER_NOTE]):
        del exif[MAKER_NOTE]
        warnings.append(MAKER_NOTE_LOST)
    whole = replace(block, main=kept, exif=exif)
    plain = {code: main[code].data for code in (XMP, IPTC, PHOTOSHOP, ICC) if code in main}
    said = kept.keys() - {ORIENTATION} or exif or block.gps
    return TiffMetadata(
        pack(_classic(whole)) if said else None,
        plain.get(XMP),
        plain.get(IPTC),
        plain.get(PHOTOSHOP),
        plain.get(ICC),
        tuple(warnings),
    )


def _is_statement(code: int, value: Value) -> bool:
    if code in _STORAGE or len(value.data) > _LARGEST:
        return False
    return not (code == DESCRIPTION and value.data.startswith(_SHAPED))


def _classic(block: ExifBlock) -> ExifBlock:
    """Leave out the 64-bit values of a BigTIFF."""
    return replace(
        block,
        main=_small(block.main),
        exif=_small(block.exif),
        gps=_small(block.gps),
        interop=_small(block.interop),
    )


def _small(directory: Directory) -> Directory:
    return {code: value for code, value in directory.items() if value.kind in _CLASSIC_KINDS}


def for_tiff(block: ExifBlock) -> tuple[ExifBlock, tuple[str, ...]]:
    """Return what of an EXIF block a TIFF can hold, and what was left out.

    The directories get other offsets there, which breaks some maker notes.
    """
    main = {code: value for code, value in block.main.items() if _is_statement(code, value)}
    main.pop(ORIENTATION, None)
    exif = dict(block.exif)
    lost: tuple[str, ...] = ()
    if MAKER_NOTE in exif and breaks_when_moved(exif[MAKER_NOTE]):
        del exif[MAKER_NOTE]
        lost = (MAKER_NOTE_LOST,)
    return _classic(replace(block, main=main, exif=exif)), lost


def foreign_tags(exif: bytes) -> tuple[frozenset[int], tuple[str, ...]]:
    """Return the tags that only a TIFF can hold, and a sentence on each kind of them.

    Args:
        exif: A block that was read from a TIFF.

    Raises:
        ValueError: The block is damaged.
    """
    foreign = parse(exif).main.keys() - EXIF_MAIN - {ORIENTATION, EXIF_POINTER, GPS_POINTER}
    lost = []
    if foreign & GEO:
        lost.append("the georeference (GeoTIFF tags) is not kept")
    if private := sorted(foreign - GEO):
        lost.append(f"the TIFF tags {', '.join(map(str, private))} are not kept")
    return frozenset(foreign), tuple(lost)
