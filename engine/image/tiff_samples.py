"""Reads the samples of gray, RGB and CMYK TIFFs exactly as stored, with all channels.

tifffile parses the file but has few decompressors. For other compressions, Pillow decodes each
strip or tile: with libtiff as a gray image of bytes, or as a WebP, JPEG 2000 or JPEG XL file.
"""

from __future__ import annotations

import io
import math
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image, TiffImagePlugin

from varfix.engine.errors import DecodeUnsupportedError
from varfix.engine.image.bomb_guard import check_inflated
from varfix.engine.image.tiff_pages import MainTiffImageFile, compression_error, page_at

Integers = npt.NDArray[Any]

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _SEPARATED = 0, 1, 2, 5
_COLORS: Final = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _SEPARATED: 4}
_UNSPECIFIED, _ASSOCIATED, _UNASSOCIATED = 0, 1, 2

# Compressions whose output tifffile does not limit.
_INFLATED: Final = {8: "zlib", 32946: "zlib", 34925: "lzma"}
# Compressions that Pillow's libtiff decodes to bytes, independent of the type of the samples.
_LIBTIFF: Final = frozenset({5, 8, 32773, 32946, 34925, 50000})
# Compressions whose strips are complete files, with Pillow's name of the format.
_IMAGES: Final = {50001: "WEBP", 33005: "JPEG2000", 34712: "JPEG2000", 50002: "JXL", 52546: "JXL"}
# Compressions that Pillow decodes completely.
_JPEG: Final = frozenset({6, 7})
_DIFFERENCES: Final = 2
# Compressions that Pillow also decodes, only to detect missing data.
CHECKED_BY_PILLOW: Final = frozenset({1, 5, 8, 32773, 32946, 34925, 50000})
# Compressions that some builds of libtiff do not support.
MAY_BE_MISSING: Final = frozenset({32809, 34661, 34925, 34887, 50000, 50001})


@dataclass(frozen=True)
class TiffSamples:
    """Samples of a file, before its orientation tag is applied.

    Attributes:
        colors: (H, W, 1, 3 or 4) uint8 or uint16: gray, RGB or CMYK.
        alpha: (H, W) of the same dtype, or None.
        extra: (H, W, N) of the same dtype: channels of unspecified meaning, or None.
    """

    colors: Integers
    alpha: Integers | None = None
    extra: Integers | None = None


def must_read(image: MainTiffImageFile, depth: int) -> bool:
    """Return whether Pillow would lose bits or channels of a TIFF or cannot read it."""
    if depth == 16:
        return True
    photometric = int(image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0))
    if photometric not in _COLORS or image.compression in _JPEG or _bits(image) != {8}:
        return False
    alone = image.extra_samples in ((), (_ASSOCIATED,), (_UNASSOCIATED,))
    return not alone or not _is_known_to_pillow(image.compression)


def _bits(image: MainTiffImageFile) -> set[int]:
    return set(image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))


def _is_known_to_pillow(compression: int) -> bool:
    return compression in (1, 2, 3, 4, 32809) or compression in _LIBTIFF


def read(data: bytes, offset: int) -> TiffSamples:
    """Decode a TIFF.

    Args:
        data: The whole file.
        offset: Offset of the directory of the image.

    Raises:
        DecodeUnsupportedError: The colors are not gray, RGB or CMYK, or the compression is
            unknown.
        ValueError: The data is damaged.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = page_at(file, offset)
        photometric = int(page.photometric)
        extra = tuple(int(kind) for kind in page.extrasamples)
        colors = int(page.samplesperpixel) - len(extra)
        if _COLORS.get(photometric) != colors:
            raise DecodeUnsupportedError(
                "unsupported TIFF channels (only gray, RGB and CMYK are supported)",
                hint="convert it to RGB first",
            )
        _check_inflation(page, data)
        samples = _read_samples(page, data)
    if photometric == _WHITE_IS_ZERO:
        samples[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
    return _split_channels(samples, colors, extra)


def _check_inflation(page: Any, data: bytes) -> None:
    """Reject strips that inflate to more than their size: tifffile would allocate all of it."""
    method = _INFLATED.get(int(page.compression))
    if method is None:
        return
    most = math.prod(page.chunks) * page.dtype.itemsize
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        check_inflated(data[offset : offset + length], method, most)


def _read_samples(page: Any, data: bytes) -> Integers:
    """Return the page as (H, W, S), in native byte order."""
    try:
        array = np.array(page.asarray(maxworkers=1))
    except (ImportError, ValueError) as error:
        if isinstance(error, ValueError) and "imagecodecs" not in str(error):
            raise
        return _Segments(page, data).decode()
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.ndim == 2:
        return array[..., np.newaxis]
    planar = page.axes.startswith("S")
    return np.ascontiguousarray(np.moveaxis(array, 0, 2)) if planar else array


class _Segments:
    """Decodes the strips or tiles of a page that tifffile cannot decompress."""

    def __init__(self, page: Any, data: bytes) -> None:
        self._page, self._data = page, data
        self._code = int(page.compression)
        if self._code not in _LIBTIFF and self._code not in _IMAGES:
            raise compression_error(self._code)
        self._height, self._width = int(page.imagelength), int(page.imagewidth)
        tiled = bool(page.is_tiled)
        self._tall = int(page.tilelength if tiled else min(page.rowsperstrip, self._height))
        self._wide = int(page.tilewidth if tiled else page.imagewidth)
        self._tiled = tiled
        separate = int(page.planarconfig) == 2
        self._planes = int(page.samplesperpixel) if separate else 1
        self._channels = int(page.samplesperpixel) // self._planes

    def decode(self) -> Integers:
        """Return the samples, (H, W, S).

        Raises:
            DecodeUnsupportedError: No decoder for the compression is installed.
            ValueError: A segment is missing or damaged.
        """
        down, across = -(-self._height // self._tall), -(-self._width // self._wide)
        kind = self._page.dtype.newbyteorder("=")
        whole = np.empty((self._height, self._width, self._planes * self._channels), kind)
        segments = zip(self._page.dataoffsets, self._page.databytecounts, strict=True)
        number = 0
        for number, (offset, length) in enumerate(segments, 1):
            plane, place = divmod(number - 1, down * across)
            row, column = divmod(place, across)
            top, left = row * self._tall, column * self._wide
            rows = self._tall if self._tiled else min(self._tall, self._height - top)
            block = self._segment(self._data[offset : offset + length], rows)
            target = whole[top : top + rows, left : left + self._wide]
            channels = slice(plane * self._channels, (plane + 1) * self._channels)
            target[..., channels] = block[: target.shape[0], : target.shape[1]]
        if number != down * across * self._planes:
            raise ValueError("strips of the TIFF are missing")
        return whole

    def _segment(self, data: bytes, rows: int) -> Integers:
        """Return one strip or tile as (H, W, C)."""
        if not data:
            raise EOFError("a strip of the TIFF is missing")
        shape = (rows, self._wide, self._channels)
        if self._code in _IMAGES:
            return self._image(data, shape)
        stored = self._page.dtype.newbyteorder(self._page.parent.byteorder)
        row_bytes = self._wide * self._channels * stored.itemsize
        fill = int(self._page.fillorder)
        raw = _inflate_with_libtiff(data, self._code, (row_bytes, rows), fill)
        block = np.frombuffer(raw, stored).reshape(shape).astype(stored.newbyteorder("="))
        if int(self._page.predictor) == _DIFFERENCES:
            block = np.cumsum(block, axis=1, dtype=block.dtype)
        return block

    def _image(self, data: bytes, shape: tuple[int, ...]) -> Integers:
        name = _IMAGES[self._code]
        if self._page.dtype.itemsize != 1 or not _can_open(name):
            raise compression_error(self._code)
        image = _open_image(name, data)
        if image.size != (shape[1], shape[0]):
            raise ValueError("a strip of the TIFF has the wrong size")
        bands = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[shape[2]]
        return np.asarray(image.convert(bands)).reshape(shape)


def _inflate_with_libtiff(data: bytes, code: int, size: tuple[int, int], fill: int) -> bytes:
    """Inflate a strip with Pillow, as a gray image of bytes.

    Args:
        data: The strip.
        code: Code of its compression.
        size: Bytes in a row, and number of rows.
        fill: 2 if the bits of each byte are reversed, else 1.
    """
    width, height = size
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, 8),
        (259, 3, code),
        (262, 3, _BLACK_IS_ZERO),
        (266, 3, fill),
        (273, 4, 8 + 2 + 12 * 10 + 4),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(data)),
    ]
    directory = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    head = b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(entries)) + directory + bytes(4)
    return TiffImagePlugin.TiffImageFile(io.BytesIO(head + data)).tobytes()


def _can_open(name: str) -> bool:
    """Return whether Pillow or an installed plug-in reads a format."""
    Image.init()
    if name == "JXL" and name not in Image.OPEN:
        try:
            import pillow_jxl.JpegXLImagePlugin  # noqa: F401 - makes Pillow know the format
        except ImportError:
            return False
    return name in Image.OPEN


def _open_image(name: str, data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=[name]) as image:
        image.load()
        return image


def _split_channels(samples: Integers, colors: int, kinds: tuple[int, ...]) -> TiffSamples:
    """Separate colors, alpha and other channels; undo premultiplied alpha."""
    alphas = [at for at, kind in enumerate(kinds) if kind in (_ASSOCIATED, _UNASSOCIATED)]
    rest = [colors + at for at in range(len(kinds)) if at not in alphas[:1]]
    extra = np.ascontiguousarray(samples[..., rest]) if rest else None
    own = samples[..., :colors]
    if not alphas:
        return TiffSamples(np.ascontiguousarray(own), None, extra)
    alpha = np.ascontiguousarray(samples[..., colors + alphas[0]])
    if kinds[alphas[0]] == _ASSOCIATED:
        top = np.iinfo(samples.dtype).max
        scale = top / np.maximum(alpha, 1).astype(np.float64)
        straight = np.rint(own * scale[..., np.newaxis])
        own = np.minimum(straight, top).astype(samples.dtype)
    return TiffSamples(np.ascontiguousarray(own), alpha, extra)
