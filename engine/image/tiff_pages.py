"""Locates the image of a TIFF file among previews, smaller copies and masks; rejects raw files.

A TIFF is a chain of directories, each with subdirectories. The image can be in any of them: many
programs write a preview first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Final

import tifffile
from PIL import TiffImagePlugin

from varfix.engine.errors import DecodeUnsupportedError

_NEW_SUBFILE: Final = 254
_DNG_VERSION: Final = 50706
_REDUCED: Final = 1
_MASK: Final = 4
_COLOR_FILTER_ARRAY, _LINEAR_RAW = 32803, 34892
_CANON: Final = b"CR"
DEVELOP: Final = "develop it to a 16-bit TIFF first, for example darktable-cli FILE FILE.tif"
# Pillow reads it as a classic TIFF.
_BIG_BIG_ENDIAN: Final = b"MM\x00+"

# Names for compressions that Pillow does not know; without a name it does not open the file.
_FOREIGN: Final = {
    33003: "jpeg2000",
    33005: "jpeg2000",
    34712: "jpeg2000",
    34887: "lerc",
    34892: "lossy jpeg",
    34933: "png",
    34934: "jpeg xr",
    50002: "jpeg xl",
    52546: "jpeg xl",
}
# Without a handler, tifffile writes a line about each unusual tag to stderr.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

for _code, _name in _FOREIGN.items():
    TiffImagePlugin.COMPRESSION_INFO.setdefault(_code, _name)


@dataclass(frozen=True)
class ImageLocation:
    """Location of the image in a TIFF file.

    Attributes:
        first: Offset of the first directory.
        offset: Offset of the image's directory.
        full: Number of directories without smaller copies; more than one are pages.
    """

    first: int
    offset: int
    full: int


class MainTiffImageFile(TiffImagePlugin.TiffImageFile):
    """A TIFF, opened at the directory of its image.

    Attributes:
        location: Location of the image.
    """

    location: ImageLocation

    def _open(self) -> None:
        assert self.fp is not None
        self.location = locate_image(self.fp)
        self.fp.seek(0)
        super()._open()
        if self.location.offset != self.location.first:
            # Pillow itself opens subdirectories in this way.
            self._frame_pos = [self.location.offset]
            self._seek(0)

    @property
    def n_frames(self) -> int:
        """Number of pages; smaller copies do not count."""
        return self.location.full

    @property
    def compression(self) -> int:
        """Code of the compression of the samples."""
        return int(self.tag_v2.get(TiffImagePlugin.COMPRESSION, 1))

    @property
    def extra_samples(self) -> tuple[int, ...]:
        """Types of the channels other than color: 0 = unspecified, 1 and 2 = alpha."""
        return tuple(int(kind) for kind in self.tag_v2.get(TiffImagePlugin.EXTRASAMPLES, ()))


def locate_image(stream: IO[bytes]) -> ImageLocation:
    """Return the location of the image in a TIFF file.

    Raises:
        DecodeUnsupportedError: The file is a camera raw file, a big-endian BigTIFF, or has an
            unknown compression.
        ValueError: The directories are damaged.
    """
    head = stream.read(10)
    stream.seek(0)
    if head.startswith(_BIG_BIG_ENDIAN):
        raise DecodeUnsupportedError(
            "unsupported TIFF (big-endian BigTIFF)", hint="convert it: tiffcp FILE OUT.tif"
        )
    canon = head[8:] == _CANON
    with tifffile.TiffFile(stream, name="image.tif") as file:
        pages = list(_iterate_pages(file))
    _reject_raw(pages, canon)
    if not pages:
        raise ValueError("the TIFF has no image")
    full = [page for page in pages if not _kind(page) & _REDUCED]
    chained = [page for page in full if page.treeindex[1:] == ()] or full
    best = (chained or sorted(pages, key=_size, reverse=True))[0]
    if int(best.compression) not in TiffImagePlugin.COMPRESSION_INFO:
        raise compression_error(int(best.compression))
    return ImageLocation(int(pages[0].offset), int(best.offset), max(1, len(chained)))


def page_at(file: tifffile.TiffFile, offset: int) -> tifffile.TiffPage:
    """Return the page whose directory is at `offset`.

    Raises:
        ValueError: No directory is at `offset`.
    """
    for page in _iterate_pages(file):
        if page.offset == offset:
            return page
    raise ValueError("the TIFF's directory is missing")


def _iterate_pages(file: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """Yield every page of the chain, each followed by its subdirectories."""
    for page in file.pages:
        if not isinstance(page, tifffile.TiffPage):
            continue
        yield page
        for child in page.pages or ():
            if isinstance(child, tifffile.TiffPage):
                yield child


def _kind(page: Any) -> int:
    """Return the flags for smaller copies and masks; 0 for the image itself."""
    return int(page.subfiletype)


def _size(page: Any) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _reject_raw(pages: list[tifffile.TiffPage], canon: bool) -> None:
    if canon:
        raise raw_file_error("CR2")
    for page in pages:
        if _DNG_VERSION in page.tags:
            raise raw_file_error("DNG")
        if int(page.photometric) in (_COLOR_FILTER_ARRAY, _LINEAR_RAW):
            raise raw_file_error("camera raw")


def raw_file_error(kind: str) -> DecodeUnsupportedError:
    """Return the error for a file of raw sensor data."""
    return DecodeUnsupportedError(f"raw files are not supported ({kind})", hint=DEVELOP)


def compression_name(code: int) -> str:
    """Return the name of a compression; its number if the name is unknown."""
    try:
        return tifffile.COMPRESSION(code).name.replace("_", " ")
    except ValueError:
        return str(code)


def compression_error(code: int) -> DecodeUnsupportedError:
    """Return the error for a compression that no installed decoder supports."""
    return DecodeUnsupportedError(
        f"unsupported TIFF compression ({compression_name(code)})",
        hint='pip install "varfix[tiff]", or save it uncompressed',
    )
