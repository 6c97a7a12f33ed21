"""The one image of a TIFF file among previews, smaller copies and masks; raw files are refused.

A TIFF is a chain of directories that may have directories below them. Where the image lies is not
fixed: many programs put a preview first.
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
# Pillow takes it for a classic TIFF.
_BIG_BIG_ENDIAN: Final = b"MM\x00+"

# Compressions that Pillow does not know, so that it opens the file and names them.
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
# It speaks of every odd tag on stderr unless somebody listens.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

for _code, _name in _FOREIGN.items():
    TiffImagePlugin.COMPRESSION_INFO.setdefault(_code, _name)


@dataclass(frozen=True)
class Choice:
    """Where the image of a TIFF file is.

    Attributes:
        first: Offset of the first directory.
        offset: Offset of the image's directory.
        full: Number of directories that are no smaller copies; more than one are pages.
    """

    first: int
    offset: int
    full: int


class TiffMainImageFile(TiffImagePlugin.TiffImageFile):
    """A TIFF opened at its one image, wherever that lies.

    Attributes:
        choice: Where it lies.
    """

    choice: Choice

    def _open(self) -> None:
        assert self.fp is not None
        self.choice = choose(self.fp)
        self.fp.seek(0)
        super()._open()
        if self.choice.offset != self.choice.first:
            # What Pillow itself does to open a directory below another one.
            self._frame_pos = [self.choice.offset]
            self._seek(0)

    @property
    def n_frames(self) -> int:
        """Number of pages, smaller copies left out."""
        return self.choice.full

    @property
    def compression(self) -> int:
        """Code of the compression of the image's samples."""
        return int(self.tag_v2.get(TiffImagePlugin.COMPRESSION, 1))

    @property
    def extra_samples(self) -> tuple[int, ...]:
        """Kinds of the channels beside the colors: 0 = unspecified, 1 and 2 = alpha."""
        return tuple(int(kind) for kind in self.tag_v2.get(TiffImagePlugin.EXTRASAMPLES, ()))


def choose(stream: IO[bytes]) -> Choice:
    """Find the image of a TIFF file.

    Raises:
        DecodeUnsupportedError: It is a raw file of a camera, or compressed in an unknown way.
        ValueError: Its directories are damaged.
    """
    head = stream.read(10)
    stream.seek(0)
    if head.startswith(_BIG_BIG_ENDIAN):
        raise DecodeUnsupportedError(
            "a big-endian BigTIFF cannot be read", hint="convert it with tiffcp FILE OUT.tif"
        )
    canon = head[8:] == _CANON
    with tifffile.TiffFile(stream, name="image.tif") as file:
        pages = list(_pages(file))
    _refuse_raw(pages, canon)
    if not pages:
        raise ValueError("the TIFF has no image")
    full = [page for page in pages if not _kind(page) & _REDUCED]
    chained = [page for page in full if page.treeindex[1:] == ()] or full
    best = (chained or sorted(pages, key=_size, reverse=True))[0]
    if int(best.compression) not in TiffImagePlugin.COMPRESSION_INFO:
        raise unreadable(int(best.compression))
    return Choice(int(pages[0].offset), int(best.offset), max(1, len(chained)))


def page_at(file: tifffile.TiffFile, offset: int) -> tifffile.TiffPage:
    """Return the page whose directory lies at `offset`.

    Raises:
        ValueError: There is none.
    """
    for page in _pages(file):
        if page.offset == offset:
            return page
    raise ValueError("the TIFF's directory is missing")


def _pages(file: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    """Yield every page of the chain, each followed by those below it."""
    for page in file.pages:
        if not isinstance(page, tifffile.TiffPage):
            continue
        yield page
        for child in page.pages or ():
            if isinstance(child, tifffile.TiffPage):
                yield child


def _kind(page: Any) -> int:
    """Return the bits that say what kind of copy a page is; 0 for the image itself."""
    return int(page.subfiletype)


def _size(page: Any) -> int:
    return int(page.imagewidth) * int(page.imagelength)


def _refuse_raw(pages: list[tifffile.TiffPage], canon: bool) -> None:
    if canon:
        raise raw_file("CR2")
    for page in pages:
        if _DNG_VERSION in page.tags:
            raise raw_file("DNG")
        if int(page.photometric) in (_COLOR_FILTER_ARRAY, _LINEAR_RAW):
            raise raw_file("camera raw")


def raw_file(kind: str) -> DecodeUnsupportedError:
    """Build the error for a file that holds what a sensor saw and no image yet."""
    return DecodeUnsupportedError(
        f"a raw file ({kind}) cannot be restored",
        hint=DEVELOP,
    )


def compression_name(code: int) -> str:
    """Return what tools call a compression, or its number."""
    try:
        return tifffile.COMPRESSION(code).name.replace("_", " ")
    except ValueError:
        return str(code)


def unreadable(code: int) -> DecodeUnsupportedError:
    """Build the error for a compression that no decoder here knows."""
    return DecodeUnsupportedError(
        f"the TIFF compression {compression_name(code)} cannot be read",
        hint='pip install "varfix[tiff]", or save it uncompressed',
    )
