"""Reading images: bytes in, upright float pixels and everything worth keeping out.

Pillow reads 8 bits and metadata, OpenCV 16-bit PNG, tifffile 16-bit TIFF. Whatever they raise
becomes one of varfix's own decode errors, without the file's name: the caller knows it.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
from PIL import ImageFile

from varfix.engine.errors import DecodeTruncatedError
from varfix.engine.formats import Header
from varfix.engine.image import jpeg, png, tiff
from varfix.engine.image.color import SourceSamples, samples_to_rgb, space_of
from varfix.engine.image.header import (
    LIBRARY_ERRORS,
    MODES,
    ends_early,
    exif_of,
    header_of,
    identify,
    open_image,
    orientation_of,
    refuse,
    translated,
)
from varfix.engine.image.heif_jxl import JxlImageFile
from varfix.engine.image.metadata import ORIENTATION, upright_exif, upright_xmp
from varfix.engine.image.picture import (
    Integers,
    Picture,
    PictureInfo,
    fill_transparent,
    is_opaque,
    to_floats,
)

# Color types without and with alpha.
_PNG_GRAY: Final = (0, 4)

# From a stored array to the upright one, by orientation tag (EXIF 2.3, 4.6.4).
_UPRIGHT: Final[dict[int, Callable[[Integers], Integers]]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def read_picture(data: bytes, *, max_pixels: int) -> Picture:
    """Decode an image.

    Args:
        data: The whole file.
        max_pixels: Refuse, from the header alone, what has more.

    Raises:
        DecodeEmptyError: There are no bytes.
        DecodeUnknownError: Not one of the formats in `formats.FORMATS`.
        DecodeUnsupportedError: Too large, animated, of odd colors, or deeper than 16 bits.
        DecodeTruncatedError: The file ends early or is damaged.
        HostMemoryError: The image does not fit in memory.
    """
    kind = identify(data)
    with translated(len(data)):
        image = open_image(kind, io.BytesIO(data))
        header = header_of(kind, image, data)
        refuse(image, header, max_pixels)
        if kind == "jxl":  # only now its metadata is known
            image.load()
            header = header_of(kind, image, data)
        orientation = orientation_of(image)
        info = _info(image, header, data)
        _check_end(kind, data)
        samples, alpha, orientation = _decode(image, header, data, orientation)
        samples = _turn(samples, orientation)
        _check_size(samples, header)
        return _assemble(samples, _turn(alpha, orientation), info)


def _check_size(samples: Integers, header: Header) -> None:
    """Refuse what is not as large as its header says: the plan was made for that."""
    height, width = samples.shape[:2]
    if (width, height) != (header.width, header.height):
        raise DecodeTruncatedError(
            f"damaged: its header promises {header.width} x {header.height} px, it holds"
            f" {width} x {height}"
        )


def has_transparency(data: bytes, *, max_pixels: int) -> bool:
    """Decode an image to see whether its alpha, if any, really hides something.

    Raises:
        DecodeError: As `read_picture`.
    """
    alpha = read_picture(data, max_pixels=max_pixels).alpha
    return alpha is not None and not is_opaque(alpha)


def _info(image: ImageFile.ImageFile, header: Header, data: bytes) -> PictureInfo:
    warnings: list[str] = []
    try:
        block = exif_of(image)
        exif = upright_exif(block, header.width, header.height) if block else None
    except LIBRARY_ERRORS:
        exif = None
        warnings.append("the EXIF block is damaged and was not kept")
    if header.format == "avif" and _is_deep_avif(data):
        warnings.append("a 10-bit or 12-bit AVIF is restored at 8 bits")
    if header.format == "heif":
        warnings += _heif_losses(image)
    if isinstance(image, JxlImageFile) and image.packed:
        warnings.append("compressed metadata of a JPEG XL is not kept")
    xmp = image.info.get("xmp")
    return PictureInfo(
        format=header.format,
        mode=_mode(image, header, data),
        depth=header.depth,
        icc=image.info.get("icc_profile") or None,
        exif=exif,
        xmp=upright_xmp(xmp.encode() if isinstance(xmp, str) else bytes(xmp)) if xmp else None,
        iptc=_iptc(header.format, data),
        dpi=_dpi(image),
        lossless=header.format == "webp" and _is_lossless_webp(data),
        chunks=png.kept_chunks(data) if header.format == "png" else (),
        warnings=tuple(warnings),
    )


def _mode(image: ImageFile.ImageFile, header: Header, data: bytes) -> str:
    if image.mode == "CMYK":
        return "cmyk"
    return "gray" if _is_gray(image, header, data) else "rgb"


def _iptc(kind: str, data: bytes) -> bytes | None:
    if kind == "jpeg":
        return jpeg.iptc_of(data)
    return tiff.iptc_of(data) if kind == "tiff" else None


def _is_gray(image: ImageFile.ImageFile, header: Header, data: bytes) -> bool:
    # Pillow widens 16-bit gray with alpha to RGBA.
    deep_png = header.format == "png" and header.depth == 16
    return data[25] in _PNG_GRAY if deep_png else MODES[image.mode] in ("L", "LA")


def _is_lossless_webp(data: bytes) -> bool:
    """Look for the lossless kind of image among the file's chunks; profiles may come first."""
    at = 12
    while at + 8 <= len(data):
        if data[at : at + 4] in (b"VP8L", b"VP8 "):
            return data[at : at + 4] == b"VP8L"
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    return False


def _is_deep_avif(data: bytes) -> bool:
    """Read the two depth flags of the codec configuration box (AV1-ISOBMFF, 2.3.3)."""
    at = data.find(b"av1C")
    return at >= 0 and len(data) > at + 6 and bool(data[at + 6] & 0x60)


def _heif_losses(image: ImageFile.ImageFile) -> list[str]:
    losses = []
    bits = image.info.get("bit_depth", 8)
    if bits > 8:
        losses.append(f"a {bits}-bit HEIC is restored at 8 bits")
    if image.info.get("aux") or image.info.get("depth_images"):
        losses.append("images beside the main one (depth, HDR gain) are not kept")
    return losses


def _dpi(image: ImageFile.ImageFile) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not (0 < across < 1e6 and 0 < down < 1e6):
        return None
    return (down, across) if orientation_of(image) >= 5 else (across, down)


def _decode(
    image: ImageFile.ImageFile, header: Header, data: bytes, orientation: int
) -> tuple[Integers, Integers | None, int]:
    """Return samples (H, W, 1 or 3), alpha (H, W) or None, and the orientation still to apply."""
    if header.depth == 16:
        # Pillow notices missing data that the other two fill with black.
        transparent = image.info.get("transparency")
        image.load()
        deep = _deep_png(data, transparent) if header.format == "png" else tiff.read_deep(data)
        return *deep, orientation
    if header.format == "tiff":
        # Pillow turns TIFFs itself, and without the tag it believes what XMP says.
        image.getexif()[ORIENTATION] = orientation
        return *_shallow(image), 1
    return *_shallow(image), orientation


def _shallow(image: ImageFile.ImageFile) -> tuple[Integers, Integers | None]:
    target = MODES[image.mode]
    if "transparency" in image.info:
        target = {"L": "LA", "RGB": "RGBA"}.get(target, target)
    image.load()
    array = np.array(image if image.mode == target else image.convert(target))
    if array.ndim == 2:
        return array[..., np.newaxis], None
    if target in ("LA", "RGBA"):
        return array[..., :-1], array[..., -1]
    return array, None


def _deep_png(data: bytes, transparent: Any) -> tuple[Integers, Integers | None]:
    import cv2

    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise ValueError("OpenCV cannot decode the PNG")
    gray = data[25] in _PNG_GRAY
    if array.ndim == 2:
        alpha = None if transparent is None else np.where(array == transparent, 0, 65535)
        return array[..., np.newaxis], None if alpha is None else alpha.astype(np.uint16)
    alpha = array[..., 3] if array.shape[2] == 4 else None
    return array[..., [0]] if gray else array[..., 2::-1], alpha


def _check_end(kind: str, data: bytes) -> None:
    """Refuse a JPEG whose tail is missing but padded: decoders paint it gray without complaint."""
    if kind == "jpeg" and data.find(b"\xff\xd9", jpeg.scan_start(data)) < 0:
        raise ends_early(len(data.rstrip(b"\x00")))


def _turn(array: Any, orientation: int) -> Any:
    if array is None or orientation not in _UPRIGHT:
        return array
    return np.ascontiguousarray(_UPRIGHT[orientation](array))


def _assemble(samples: Integers, alpha: Integers | None, info: PictureInfo) -> Picture:
    hidden = None
    if alpha is not None and not alpha.all():
        hidden = samples[alpha == 0]
        samples = fill_transparent(samples, alpha)
    space, warning = space_of(info.mode, info.icc)
    if warning:
        info = replace(info, warnings=(*info.warnings, warning))
    if space is None:
        return Picture(to_floats(samples), alpha, info, hidden)
    return Picture(
        samples_to_rgb(samples, space), alpha, info, hidden, SourceSamples(samples, space)
    )
