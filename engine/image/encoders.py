"""One encoder for each image format: samples and metadata in, the bytes of a file out."""

from __future__ import annotations

import io
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
from PIL import Image

from varfix.engine.image import jpeg, jpeg_coding, png, tiff
from varfix.engine.image.decoded_image import ImageInfo, Integers
from varfix.engine.image.metadata import resolution, xmp
from varfix.engine.image.metadata.exif_block import PREFIX
from varfix.engine.settings.types import OutputSettings

# 255 segments. With more, Pillow would write a damaged file and report nothing.
_JPEG_PROFILE: Final = 255 * 65519
_PNG_SMALL_LEVEL: Final = 9
_PNG_FILTERED: Final = 1
_PNG_ALL_FILTERS: Final = 248
_WEBP_EFFORT: Final = 4
_AVIF_SPEED: Final = 7
# Lossless: effort 1 is ten times as fast as 7, and files are 10 % larger.
_JXL_EFFORT: Final = {True: 1, False: 5}
# Offset of the pixels per meter in a BMP.
_BMP_RESOLUTION: Final = 38


@dataclass(frozen=True)
class Raster:
    """Input of an encoder.

    Attributes:
        samples: (H, W, 1, 3 or 4) uint8 or uint16: gray, RGB or CMYK.
        alpha: (H, W) of the same dtype, or None; never with CMYK.
        info: Metadata to store.
        options: Quality settings.
        extra: (H, W, N) of the same dtype: channels that only TIFF can store, or None.
        restored: The colors differ from those of the source.
    """

    samples: Integers
    alpha: Integers | None
    info: ImageInfo
    options: OutputSettings
    extra: Integers | None = None
    restored: bool = False


def _image(raster: Raster) -> Image.Image:
    """Return the raster as an 8-bit Pillow image (L, LA, RGB, RGBA or CMYK)."""
    if raster.samples.shape[2] == 4:
        size = raster.samples.shape[1::-1]
        return Image.frombuffer("CMYK", size, raster.samples.tobytes(), "raw", "CMYK", 0, 1)
    if raster.alpha is None:
        gray = raster.samples.shape[2] == 1
        return Image.fromarray(raster.samples[..., 0] if gray else raster.samples)
    stacked = np.dstack([raster.samples, raster.alpha])
    mode = "LA" if stacked.shape[2] == 2 else "RGBA"
    return Image.frombuffer(mode, stacked.shape[1::-1], stacked.tobytes(), "raw", mode, 0, 1)


def _save(image: Image.Image, fmt: str, params: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **{key: value for key, value in params.items() if value is not None})
    return out.getvalue()


def _jpeg(raster: Raster) -> bytes:
    info = raster.info
    if len(info.icc or b"") > _JPEG_PROFILE:
        raise ValueError("the color profile is too large for JPEG")
    packet, extension = info.xmp, []
    if packet and len(packet) > xmp.LARGEST_IN_JPEG:
        packet, name, extended = xmp.split(packet)
        extension = jpeg.extended_xmp(name, extended)
    params = {
        "icc_profile": info.icc,
        "exif": PREFIX + info.exif if info.exif else None,
        "xmp": packet,
    }
    data = _save_jpeg(raster, params)
    density = resolution.jfif_fields(info.resolution) if info.resolution else None
    if density:
        data = jpeg.with_density(data, *density)
    more = [*extension, *jpeg.resources(info.resources or b""), *jpeg.comment(info.comment or b"")]
    return jpeg.insert(data, more) if more else data


def _save_jpeg(raster: Raster, params: dict[str, Any]) -> bytes:
    """Encode with the best of the codings whose result is about as large as the source."""
    channels, quality = raster.samples.shape[2], raster.options.jpeg_quality
    source = raster.info.jpeg
    choices = jpeg_coding.save_options(source, channels, quality, restored=raster.restored)
    image = _image(raster)

    @cache
    def encoded(choice: int) -> bytes:
        try:
            return _save(image, "JPEG", params | choices[choice])
        except OSError:
            # Pillow's memory is too small for more than two bytes a pixel in several passes.
            plain = {"optimize": None, "progressive": None}
            return _save(image, "JPEG", params | choices[choice] | plain)

    def fits(choice: int) -> bool:
        return jpeg_coding.fits(encoded(choice), source)

    last = len(choices) - 1
    if last == 0 or fits(0):
        return encoded(0)
    return encoded(bisect_left(range(last), True, 1, key=fits))


def _webp(raster: Raster) -> bytes:
    info = raster.info
    params = {
        "quality": raster.options.webp_quality,
        "lossless": info.lossless,
        "method": _WEBP_EFFORT,
        "exact": True,  # colors under transparency stay as they are
        "icc_profile": info.icc,
        "exif": info.exif,
        "xmp": info.xmp,
    }
    return _save(_image(raster), "WEBP", params)


def _avif(raster: Raster) -> bytes:
    info = raster.info
    params = {
        "quality": 100 if info.lossless and info.format == "avif" else raster.options.avif_quality,
        "subsampling": "4:4:4",
        "speed": _AVIF_SPEED,
        "icc_profile": info.icc,
        "exif": PREFIX + info.exif if info.exif else None,
        "xmp": info.xmp,
    }
    return _save(_image(raster), "AVIF", params)


def _heif(raster: Raster) -> bytes:
    import pillow_heif

    image = _image(raster)
    # Many viewers reject gray with alpha as the library stores it.
    heif = pillow_heif.from_pillow(image.convert("RGBA") if image.mode == "LA" else image)
    params = {
        "quality": raster.options.heic_quality,
        "chroma": 444,
        "icc_profile": raster.info.icc,
        "exif": PREFIX + raster.info.exif if raster.info.exif else None,
        "xmp": raster.info.xmp,
    }
    out = io.BytesIO()
    heif.save(out, **{key: value for key, value in params.items() if value is not None})
    return out.getvalue()


def _jxl(raster: Raster) -> bytes:
    import pillow_jxl.JpegXLImagePlugin  # noqa: F401 - makes Pillow know the format

    quality = raster.options.jxl_quality
    params = {
        "quality": quality,
        "lossless": quality == 100,
        "effort": _JXL_EFFORT[quality == 100],
        "use_container": True,
        # The standard requires an offset before the block; the library does not add it.
        "exif": bytes(4) + raster.info.exif if raster.info.exif else b"",
        "xmp": raster.info.xmp,
    }
    return _save(_image(raster), "JXL", params)


def _bmp(raster: Raster) -> bytes:
    plain = raster.alpha is None
    data = bytearray(_save(_image(raster), "BMP", {}) if plain else _by_opencv(".bmp", raster))
    stated = raster.info.resolution
    # Pillow states 96 pixels per inch if it is told nothing.
    pixels = resolution.pixels_per_meter(stated) if stated else (0, 0)
    struct.pack_into("<II", data, _BMP_RESOLUTION, *pixels)
    return bytes(data)


def _tiff(raster: Raster) -> bytes:
    info = raster.info
    tags = tiff.TiffTags(info.icc, info.exif, info.xmp, info.resources, info.resolution)
    samples = raster.samples
    if raster.alpha is not None and samples.shape[2] == 1 and samples.dtype == np.uint16:
        samples = samples.repeat(3, axis=2)  # Pillow cannot read 16-bit gray with alpha
    return tiff.write(samples, raster.alpha, tags, raster.extra)


def _png(raster: Raster) -> bytes:
    shallow_gray_alpha = (
        raster.alpha is not None
        and raster.samples.shape[2] == 1
        and raster.samples.dtype == np.uint8
    )
    # OpenCV is several times faster, but cannot write gray with alpha.
    data = _png_by_pillow(raster) if shallow_gray_alpha else _by_opencv(".png", raster)
    return png.insert(data, _png_chunks(raster.info))


def _png_by_pillow(raster: Raster) -> bytes:
    level = 1 if raster.options.png_level == "fast" else _PNG_SMALL_LEVEL
    return _save(_image(raster), "PNG", {"compress_level": level})


def _by_opencv(suffix: str, raster: Raster) -> bytes:
    import cv2

    samples = raster.samples
    if raster.alpha is not None:
        colors = samples.repeat(3, axis=2) if samples.shape[2] == 1 else samples[..., ::-1]
        samples = np.dstack([colors, raster.alpha])
    elif samples.shape[2] == 3:
        samples = np.ascontiguousarray(samples[..., ::-1])
    params: list[int] = []
    if suffix == ".png" and raster.options.png_level == "small":
        params = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_SMALL_LEVEL]
        params += [cv2.IMWRITE_PNG_STRATEGY, _PNG_FILTERED]
        params += [cv2.IMWRITE_PNG_FILTER, _PNG_ALL_FILTERS]
    done, encoded = cv2.imencode(suffix, samples, params)
    if not done:
        raise ValueError("OpenCV could not encode the image")
    return bytes(encoded)


def _png_chunks(info: ImageInfo) -> Iterator[png.Chunk]:
    stated = any(kind in png.COLOR for kind, _payload in info.chunks)
    if info.icc and not (info.icc_is_implied and stated):
        yield png.icc_chunk(info.icc)
    yield from info.chunks
    if info.resolution:
        yield png.resolution_chunk(*resolution.png_fields(info.resolution))
    if info.exif:
        yield png.exif_chunk(info.exif)
    if info.xmp:
        yield png.xmp_chunk(info.xmp)


ENCODERS: Final[dict[str, Callable[[Raster], bytes]]] = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _webp,
    "tiff": _tiff,
    "avif": _avif,
    "bmp": _bmp,
    "heif": _heif,
    "jxl": _jxl,
}
