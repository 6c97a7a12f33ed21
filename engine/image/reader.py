"""Decodes image files: bytes in, upright float pixels and metadata out.

Pillow reads 8 bits and metadata, OpenCV reads 16-bit PNG, tifffile reads 16-bit TIFF. Their
exceptions become decode errors of varfix without the name of the file, which the caller adds.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from PIL import ImageFile

from varfix.engine.errors import DecodeTruncatedError
from varfix.engine.formats import Header
from varfix.engine.image import isobmff, jpeg, jpeg_check, png, tiff_samples, webp
from varfix.engine.image.color import SourceSamples, samples_to_rgb, space_of
from varfix.engine.image.decoded_image import (
    DecodedImage,
    Floats,
    ImageInfo,
    Integers,
    fill_transparent,
    is_opaque,
    to_floats,
)
from varfix.engine.image.header import (
    MODES,
    NOT_A_RESULT,
    ends_early,
    header_of,
    identify,
    open_image,
    open_png,
    orientation_of,
    reject,
    translate_decode_errors,
)
from varfix.engine.image.metadata.exif import ORIENTATION
from varfix.engine.image.metadata.metadata import info_of
from varfix.engine.image.tiff_pages import MainTiffImageFile, compression_error
from varfix.engine.image.tiff_samples import TiffSamples
from varfix.engine.image.zeros import ends_in_zeros


@dataclass(frozen=True)
class Draft:
    """An image, perhaps smaller than its file.

    Attributes:
        pixels: (h, w, 3) float32 in [0, 1], sRGB, upright.
        width: Width of the image in the file, upright, in pixels.
        height: Its height.
        pieces: (N, h, w, 3) float32 in [0, 1], sRGB, what was cut out at full size; or None.
    """

    pixels: Floats
    width: int
    height: int
    pieces: Floats | None = None


# Color types of PNG without and with alpha.
_PNG_GRAY: Final = (0, 4)

# Turns a stored array upright, by orientation tag (EXIF 2.3, 4.6.4).
_UPRIGHT: Final[dict[int, Callable[[Integers], Integers]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def decode_image(data: bytes, *, max_pixels: int) -> DecodedImage:
    """Decode an image.

    Args:
        data: The whole file.
        max_pixels: Limit; an image with more pixels is rejected before it is decoded.

    Raises:
        DecodeEmptyError: There are no bytes.
        DecodeUnknownError: The format is not in `formats.FORMATS`.
        DecodeUnsupportedError: The image is too large, animated, deeper than 16 bits, or in a
            color mode that is not supported.
        DecodeTruncatedError: The file ends early or is damaged.
        HostMemoryError: The image does not fit in memory.
    """
    kind = identify(data)
    with translate_decode_errors(len(data)):
        image = open_image(kind, io.BytesIO(data))
        header = header_of(kind, image, data)
        reject(image, header, max_pixels)
        damage: tuple[str, ...] = ()
        if kind == "png":
            data, damage = png.check_chunks(data)
            image = open_png(data)
        if kind == "jxl":  # loading reads the metadata
            image.load()
            header = header_of(kind, image, data)
        orientation = orientation_of(image)
        _check_end(kind, data)
        info = info_of(image, header, data)
        info = replace(info, warnings=(*damage, *info.warnings))
        samples, orientation = _decode(image, header, data, orientation)
        _check_coding(kind, data)
        samples = _apply_orientation(samples, orientation)
        _check_size(samples.colors, header)
        return _assemble(samples, info)


def decode_draft(
    data: bytes, *, max_pixels: int, side: int, cut: Callable[[Integers], Integers] | None = None
) -> Draft:
    """Decode an image for a thumbnail, smaller than it is where the format allows it.

    A JPEG is decoded to an eighth, a quarter or half of its size in a fraction of the time, or
    with `cut` to its full size, of which only the pieces become floats. Damage that libjpeg does
    not report is not noticed.

    Args:
        data: The whole file.
        max_pixels: As for `decode_image`.
        side: Least width and height of the result, unless the image is smaller.
        cut: Cuts pieces (N, h, w, C) out of the image (H, W, C) at its full size; None for none.

    Raises:
        DecodeError: As `decode_image`.
        HostMemoryError: The image does not fit in memory.
    """
    kind = identify(data)
    if kind != "jpeg":
        pixels = decode_image(data, max_pixels=max_pixels).pixels
        return Draft(pixels, pixels.shape[1], pixels.shape[0], None if cut is None else cut(pixels))
    with translate_decode_errors(len(data)):
        image = open_image(kind, io.BytesIO(data))
        header = header_of(kind, image, data)
        reject(image, header, max_pixels)
        orientation = orientation_of(image)
        _check_end(kind, data)
        info = info_of(image, header, data)
        if cut is None:
            image.draft(None, (side, side))
        samples = _apply_orientation(_decode_8bit(image, data), orientation)
        pieces = None if cut is None else _converted(cut(samples.colors), info)
        small = TiffSamples(_shrunk(samples.colors, side))
        return Draft(_assemble(small, info).pixels, header.width, header.height, pieces)


def _shrunk(colors: Integers, side: int) -> Integers:
    """Return an image (H, W, C) shrunk by a whole number, at least `side` wide and high."""
    import cv2

    height, width = colors.shape[:2]
    factor = min(height, width) // side
    if factor < 2:
        return colors
    size = (width // factor, height // factor)
    small = cv2.resize(colors, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small).reshape(size[1], size[0], colors.shape[2])


def _converted(pieces: Integers, info: ImageInfo) -> Floats:
    """Return pieces (N, h, w, C) of an image as sRGB (N, h, w, 3)."""
    count, height, width, channels = pieces.shape
    column = np.ascontiguousarray(pieces).reshape(count * height, width, channels)
    return _assemble(TiffSamples(column), info).pixels.reshape(count, height, width, 3)


def _check_size(samples: Integers, header: Header) -> None:
    """Reject an image of another size than its header states, for which memory was planned."""
    height, width = samples.shape[:2]
    if (width, height) != (header.width, header.height):
        raise DecodeTruncatedError(
            f"file is damaged: its header states {header.width} x {header.height} px, its data has"
            f" {width} x {height}"
        )


def has_transparency(data: bytes, *, max_pixels: int) -> bool:
    """Return whether an image has pixels that are not opaque; decode it to find out.

    Raises:
        DecodeError: As `decode_image`.
    """
    alpha = decode_image(data, max_pixels=max_pixels).alpha
    return alpha is not None and not is_opaque(alpha)


def _decode(
    image: ImageFile.ImageFile, header: Header, data: bytes, orientation: int
) -> tuple[TiffSamples, int]:
    """Return the samples as stored, and the orientation that is not applied yet."""
    if isinstance(image, MainTiffImageFile):
        return _decode_tiff(image, header, data, orientation)
    if header.depth == 16:
        # Pillow detects missing data, which OpenCV replaces by black.
        transparent = image.info.get("transparency")
        image.load()
        return _decode_deep_png(data, transparent), orientation
    samples = _decode_8bit(image, data)
    if header.format == "bmp" and samples.alpha is not None and not samples.alpha.any():
        samples = replace(samples, alpha=None)  # many programs leave the fourth byte empty
    return samples, orientation


def _decode_tiff(
    image: MainTiffImageFile, header: Header, data: bytes, orientation: int
) -> tuple[TiffSamples, int]:
    if tiff_samples.must_read(image, header.depth):
        if image.compression in tiff_samples.CHECKED_BY_PILLOW:
            # Pillow detects missing data, which tifffile replaces by black.
            image.load()
        return tiff_samples.read(data, image.location.offset), orientation
    # Pillow turns TIFFs itself; without the tag it uses the orientation in XMP.
    image.getexif()[ORIENTATION] = orientation
    try:
        return _decode_8bit(image, data), 1
    except OSError as error:
        if "decoder" in str(error) and image.compression in tiff_samples.MAY_BE_MISSING:
            raise compression_error(image.compression) from error
        raise


def _decode_8bit(image: ImageFile.ImageFile, data: bytes) -> TiffSamples:
    transparent = image.info.get("transparency")
    keyed = transparent if isinstance(transparent, int) and image.mode in ("1", "L") else None
    target = MODES[image.mode]
    if transparent is not None and keyed is None:
        target = {"L": "LA", "RGB": "RGBA"}.get(target, target)
    image.load()
    array = np.array(image if image.mode == target else image.convert(target))
    if array.ndim == 2:
        alpha = None if keyed is None else _alpha_of_key(array, keyed, data)
        return TiffSamples(array[..., np.newaxis], alpha)
    if target in ("LA", "RGBA"):
        return TiffSamples(array[..., :-1], array[..., -1])
    return TiffSamples(array)


def _alpha_of_key(gray: Integers, transparent: int, data: bytes) -> Integers:
    """Return the alpha of a gray PNG in which one gray value is transparent.

    Pillow scales samples of 2 and 4 bits to 8 bits, but not that value. For 1 bit it scales both.
    """
    scale = 1 if data[24] == 1 else 255 // (2 ** data[24] - 1)
    return np.where(gray == transparent * scale, 0, 255).astype(np.uint8)


def _decode_deep_png(data: bytes, transparent: Any) -> TiffSamples:
    import cv2

    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise ValueError("OpenCV cannot decode the PNG")
    gray = data[25] in _PNG_GRAY
    if array.ndim == 2:
        alpha = None if transparent is None else np.where(array == transparent, 0, 65535)
        return TiffSamples(
            array[..., np.newaxis], None if alpha is None else alpha.astype(np.uint16)
        )
    alpha = array[..., 3] if array.shape[2] == 4 else None
    return TiffSamples(array[..., [0]] if gray else array[..., 2::-1], alpha)


def _check_end(kind: str, data: bytes) -> None:
    """Reject a file in which zeros replace the end: decoders show it gray and raise no error."""
    if kind == "jpeg" and jpeg.end_of_first_image(data) is None:
        raise ends_early(len(data.rstrip(b"\x00")))
    if kind == "webp" and webp.is_padded(data):
        raise ends_early(len(data.rstrip(b"\x00")))
    if kind in ("avif", "heif"):
        for extents in isobmff.read_items(data).coded_extents():
            start, length = extents[-1]
            if start + length > len(data) or ends_in_zeros(data, start, start + length):
                raise ends_early(len(data.rstrip(b"\x00")))


def _check_coding(kind: str, data: bytes) -> None:
    """Reject a JPEG with damage that libjpeg does not report."""
    end = jpeg.end_of_first_image(data) if kind == "jpeg" else None
    if end is not None and jpeg_check.is_damaged(data, end):
        raise DecodeTruncatedError(f"file is damaged ({NOT_A_RESULT})")


def _apply_orientation(samples: TiffSamples, orientation: int) -> TiffSamples:
    if orientation not in _UPRIGHT:
        return samples

    def turn(array: Any) -> Any:
        return None if array is None else np.ascontiguousarray(_UPRIGHT[orientation](array))

    return TiffSamples(turn(samples.colors), turn(samples.alpha), turn(samples.extra))


def _assemble(samples: TiffSamples, info: ImageInfo) -> DecodedImage:
    colors, alpha, hidden = samples.colors, samples.alpha, None
    if alpha is not None and not alpha.all():
        hidden = colors[alpha == 0]
        colors = fill_transparent(colors, alpha)
    space, warning = space_of(info.mode, info.icc)
    if warning:
        info = replace(info, warnings=(*info.warnings, warning))
    if space is None:
        return DecodedImage(to_floats(colors), alpha, info, hidden, None, samples.extra)
    origin = SourceSamples(colors, space)
    return DecodedImage(samples_to_rgb(colors, space), alpha, info, hidden, origin, samples.extra)
