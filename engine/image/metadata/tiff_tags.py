"""Separates the tags of a TIFF that describe the image from those that describe its storage.

A TIFF has both in one directory. The result is stored differently, so that it keeps only the tags
that describe the image.
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
    pack,
    parse,
    read_directories,
)
from varfix.engine.image.metadata.maker_note import breaks_when_moved

XMP: Final = 700
IPTC: Final = 33723
PHOTOSHOP: Final = 34377
ICC: Final = 34675
DESCRIPTION: Final = 270
PHOTOSHOP_LAYERS: Final = 37724

# Tags of GeoTIFF and GDAL: the geographic position of the pixels.
GEO: Final = frozenset({33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113})
# Tags of EXIF for its main directory, of Windows and of printers: valid in every format.
EXIF_MAIN: Final = frozenset(
    {11, 269, 270, 271, 272, 285, 297, 301, 305, 306, 315, 316, 318, 319, 33432}
    | {18246, 18249, 40091, 40092, 40093, 40094, 40095, 42016, 50341}
)
_STORAGE: Final = frozenset(
    {254, 255, 256, 257, 258, 259, 262, 263, 264, 265, 266, 273, 277, 278, 279, 280, 281, 282}
    | {283, 284, 288, 289, 290, 291, 292, 293, 296, 317, *range(320, 348), *range(512, 533), 559}
    | {33421, 33422, 34665, 34853, 34892, 37399, 40965}
    | {XMP, IPTC, PHOTOSHOP, ICC, PHOTOSHOP_LAYERS}
    | set(range(50706, 51126))  # tags of raw files
)
# A larger value is private data of a program and does not describe the image.
_LARGEST: Final = 1 << 20
_CLASSIC_KINDS: Final = range(1, 13)

# Beginning of the description that tifffile writes by default.
_SHAPED: Final = b'{"shape":'

MAKER_NOTE_LOST: Final = "the maker note is not kept: its offsets would be wrong in the result"


@dataclass(frozen=True)
class TiffMetadata:
    """Metadata of a TIFF file.

    Attributes:
        exif: EXIF block, without prefix, of the tags that describe the image; None without tags.
        xmp: XMP packet.
        iptc: IPTC record.
        resources: Photoshop image resources.
        icc: Color profile.
        warnings: One sentence for each part that no format can store.
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
        offsets: Offsets of the directories to read; tags of later directories override earlier
            ones.

    Raises:
        ValueError: A directory is damaged.
    """
    block = read_directories(data, offsets)
    main = block.main
    warnings = []
    if PHOTOSHOP_LAYERS in main:
        warnings.append("Photoshop layers are not kept")
    kept = {code: value for code, value in main.items() if _describes_image(code, value)}
    exif = dict(block.exif)
    if MAKER_NOTE in exif and breaks_when_moved(exif[MAKER_NOTE]):
        del exif[MAKER_NOTE]
        warnings.append(MAKER_NOTE_LOST)
    whole = replace(block, main=kept, exif=exif)
    plain = {code: main[code].data for code in (XMP, IPTC, PHOTOSHOP, ICC) if code in main}
    has_tags = kept.keys() - {ORIENTATION} or exif or block.gps
    return TiffMetadata(
        pack(_classic(whole)) if has_tags else None,
        plain.get(XMP),
        plain.get(IPTC),
        plain.get(PHOTOSHOP),
        plain.get(ICC),
        tuple(warnings),
    )


def _describes_image(code: int, value: Value) -> bool:
    if code in _STORAGE or len(value.data) > _LARGEST:
        return False
    return not (code == DESCRIPTION and value.data.startswith(_SHAPED))


def _classic(block: ExifBlock) -> ExifBlock:
    """Return the block without the 64-bit values of a BigTIFF."""
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
    """Return the part of an EXIF block that a TIFF can store, and warnings about the rest.

    The directories get other offsets there, which makes some maker notes invalid.
    """
    main = {code: value for code, value in block.main.items() if _describes_image(code, value)}
    main.pop(ORIENTATION, None)
    exif = dict(block.exif)
    lost: tuple[str, ...] = ()
    if MAKER_NOTE in exif and breaks_when_moved(exif[MAKER_NOTE]):
        del exif[MAKER_NOTE]
        lost = (MAKER_NOTE_LOST,)
    return _classic(replace(block, main=main, exif=exif)), lost


def foreign_tags(exif: bytes) -> tuple[frozenset[int], tuple[str, ...]]:
    """Return the tags that only a TIFF can store, and warnings about them.

    Args:
        exif: Block that was read from a TIFF.

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
