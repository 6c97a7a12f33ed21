"""TIFF through tifffile: 16-bit samples exactly, and EXIF that survives.

Pillow reads 16-bit RGB as 8-bit without a word, tifffile has no notion of EXIF directories: each
does here what it does well.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from varfix.engine.errors import DecodeUnsupportedError
from varfix.engine.image import iptc
from varfix.engine.image.bomb_guard import check, check_inflated
from varfix.engine.image.metadata import ORIENTATION, PREFIX

Integers = npt.NDArray[Any]

# What a first directory says of the image and its making, not of how its samples are stored.
_DESCRIPTIVE: Final = (269, 270, 271, 272, 305, 306, 315, 316, 33432)
_SUBDIRECTORIES: Final = (0x8769, 0x8825)  # EXIF, GPS
_XMP: Final = 700
_IPTC: Final = 33723
_PHOTOSHOP: Final = 34377
_INTEROP: Final = 0xA005

# Compressions without a limit of their own.
_INFLATED: Final = {8: "zlib", 32946: "zlib", 34925: "lzma"}
_BYTE, _ASCII, _LONG = 1, 2, 4
_UNDEFINED: Final = 7
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _SEPARATED = 0, 1, 2, 5
_KINDS: Final = ((_WHITE_IS_ZERO, 1), (_BLACK_IS_ZERO, 1), (_RGB, 3), (_SEPARATED, 4))
_PHOTOMETRIC: Final = {1: "minisblack", 3: "rgb", 4: "separated"}
_ASSOCIATED, _UNASSOCIATED = 1, 2

# Level 6 costs three times as long for a few percent.
_ZLIB_LEVEL: Final = 3


@dataclass(frozen=True)
class TiffTags:
    """Metadata for a TIFF file; each may be missing."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None


def read_deep(data: bytes) -> tuple[Integers, Integers | None]:
    """Decode a 16-bit TIFF as stored, its orientation tag not applied.

    Returns:
        (H, W, 1, 3 or 4) uint16 and alpha (H, W) uint16 or None.

    Raises:
        DecodeUnsupportedError: Its channels are not gray, RGB or CMYK, perhaps with alpha.
        ValueError: The data is damaged.
    """
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        photometric = int(page.photometric)
        extra = tuple(int(kind) for kind in page.extrasamples)
        _check_inflation(page, data)
        samples = _samples(page, data)
    colors = samples.shape[2] - len(extra)
    if (photometric, colors) not in _KINDS:
        raise DecodeUnsupportedError(
            "a TIFF with these channels cannot be restored", hint="convert it to RGB first"
        )
    if photometric == _WHITE_IS_ZERO:
        samples[..., 0] = 65535 - samples[..., 0]
    return _split_alpha(samples, colors, extra)


def write(samples: Integers, alpha: Integers | None, tags: TiffTags) -> bytes:
    """Encode a TIFF, deflate-compressed.

    Args:
        samples: (H, W, 1, 3 or 4) uint8 or uint16: gray, RGB or CMYK.
        alpha: (H, W) of the same dtype, or None.
        tags: Metadata.

    Raises:
        ValueError: The metadata is damaged or does not fit.
    """
    import tifffile

    stacked = samples if alpha is None else np.dstack([samples, alpha])
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        stacked[..., 0] if stacked.shape[2] == 1 else stacked,
        byteorder="<",
        photometric=_PHOTOMETRIC[samples.shape[2]],
        planarconfig="contig" if stacked.shape[2] > 1 else None,
        extrasamples=None if alpha is None else ["unassalpha"],
        compression="zlib",
        compressionargs={"level": _ZLIB_LEVEL},
        predictor=True,
        maxworkers=1,
        metadata=None,
        software=False,
        resolution=tags.dpi,
        resolutionunit="inch" if tags.dpi else None,
        iccprofile=tags.icc,
        extratags=_extra_tags(tags),
    )
    return _graft(out.getvalue(), tags.exif)


def _check_inflation(page: Any, data: bytes) -> None:
    """Refuse strips that inflate to more than their share: tifffile would keep all of it."""
    method = _INFLATED.get(int(page.compression))
    if method is None:
        return
    most = math.prod(page.chunks) * page.dtype.itemsize
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        check_inflated(data[offset : offset + length], method, most)


def _samples(page: Any, data: bytes) -> Integers:
    """Return the page as (H, W, S), by OpenCV where tifffile lacks the decompressor."""
    try:
        array = np.array(page.asarray(maxworkers=1))
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        return _samples_by_opencv(data, page.samplesperpixel)
    if array.ndim == 2:
        return array[..., np.newaxis]
    planar = page.axes.startswith("S")
    return np.ascontiguousarray(np.moveaxis(array, 0, 2)) if planar else array


def _samples_by_opencv(data: bytes, channels: int) -> Integers:
    import cv2

    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise DecodeUnsupportedError(
            "a TIFF compressed like this cannot be read", hint="save it uncompressed or as PNG"
        )
    array = array.reshape(*array.shape[:2], -1)
    if array.shape[2] != channels or channels == 2:
        raise DecodeUnsupportedError(
            "a TIFF with these channels cannot be read", hint="save it uncompressed or as PNG"
        )
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    return np.asarray(array[..., order])


def _split_alpha(
    samples: Integers, colors: int, extra: tuple[int, ...]
) -> tuple[Integers, Integers | None]:
    if not extra or extra[0] not in (_ASSOCIATED, _UNASSOCIATED):
        return samples[..., :colors], None
    alpha = samples[..., colors]
    if extra[0] == _UNASSOCIATED:
        return samples[..., :colors], alpha
    scale = 65535.0 / np.maximum(alpha, 1).astype(np.float64)
    straight = np.rint(samples[..., :colors] * scale[..., np.newaxis])
    return np.minimum(straight, 65535).astype(np.uint16), alpha


def _extra_tags(tags: TiffTags) -> list[tuple[int, int, int, Any, bool]]:
    extra: list[tuple[int, int, int, Any, bool]] = []
    if tags.xmp:
        extra.append((_XMP, _BYTE, len(tags.xmp), tags.xmp, True))
    if tags.iptc:
        extra.append((_IPTC, _UNDEFINED, len(tags.iptc), tags.iptc, True))
    if tags.exif:
        block = _load(tags.exif)
        for code in _DESCRIPTIVE:
            value = block.get(code)
            if isinstance(value, str) and value:
                text = value.encode("utf-8") + b"\x00"
                extra.append((code, _ASCII, len(text), text, True))
        extra += [(code - 1, _LONG, 1, 0, True) for code in _SUBDIRECTORIES if block.get_ifd(code)]
    return extra


def _graft(data: bytes, exif: bytes | None) -> bytes:
    """Append the EXIF and GPS directories and point the tags reserved for them there.

    tifffile refuses to write these two tags, so they are reserved under the codes just below,
    which nobody uses and which keep the order that a directory must have.
    """
    if not exif:
        return data
    import tifffile

    block = _load(exif)
    out = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        page = tiff.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        reserved = {c: page.tags[c - 1] for c in _SUBDIRECTORIES if c - 1 in page.tags}
    for code, tag in reserved.items():
        out += bytes(len(out) % 2)  # directories begin on even offsets
        struct.pack_into("<H", out, tag.offset, code)
        struct.pack_into("<I", out, tag.valueoffset, len(out))
        out += _directory(block.get_ifd(code), len(out))
    return bytes(out)


def _directory(entries: dict[int, Any], offset: int) -> bytes:
    from PIL import TiffImagePlugin

    directory = TiffImagePlugin.ImageFileDirectory_v2(b"II\x2a\x00\x08\x00\x00\x00")
    for code, value in entries.items():
        if code != _INTEROP:
            directory[code] = value
    return bytes(directory.tobytes(offset))


def _load(exif: bytes) -> Any:
    from PIL import Image

    try:
        check("tiff", io.BytesIO(exif))  # built like a TIFF, and perhaps as hostile
    except EOFError as error:
        raise ValueError("the EXIF block is damaged") from error
    block = Image.Exif()
    block.load(PREFIX + exif)
    return block


def iptc_of(data: bytes) -> bytes | None:
    """Return a TIFF's IPTC record from its own tag or from Photoshop's, None without one."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as tiff:
        tags = tiff.pages.first.tags
        # As they lie in the file: many writers declare the record to be 32-bit numbers.
        raw = {
            code: data[tags[code].valueoffset :][: tags[code].valuebytecount]
            for code in (_IPTC, _PHOTOSHOP)
            if code in tags
        }
    return raw.get(_IPTC) or iptc.record_of(raw.get(_PHOTOSHOP, b"")) or None


def exif_of(image: Any) -> bytes | None:
    """Gather a TIFF's descriptive tags and its EXIF and GPS directories into an EXIF block.

    Args:
        image: A Pillow `TiffImageFile`, open.

    Returns:
        The block without prefix, or None when the file has no such tags.
    """
    from PIL import Image

    source = image.getexif()
    block = Image.Exif()
    for code in (*_DESCRIPTIVE, ORIENTATION):
        if code in source:
            block[code] = source[code]
    for code in _SUBDIRECTORIES:
        if directory := source.get_ifd(code):
            block.get_ifd(code).update(directory)
    if set(block) <= {ORIENTATION} and not any(block.get_ifd(c) for c in _SUBDIRECTORIES):
        return None
    return bytes(block.tobytes()).removeprefix(PREFIX)
