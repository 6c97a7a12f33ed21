"""Writing pictures: upright float pixels in, a whole file's bytes out.

Metadata that a format or library refuses costs a warning, never the picture.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from PIL import Image, ImageColor

from varfix.engine import png, tiff
from varfix.engine.errors import EncodeError
from varfix.engine.exif import PREFIX
from varfix.engine.formats import FORMATS, output_format
from varfix.engine.picture import Floats, Integers, Picture, PictureInfo, is_opaque, to_integers
from varfix.engine.settings import OutputSettings

_PNG_SMALL_LEVEL: Final = 9
_PNG_FILTERED: Final = 1
_PNG_ALL_FILTERS: Final = 248
_WEBP_EFFORT: Final = 4
_AVIF_SPEED: Final = 7

_LIBRARY_ERRORS: Final = (OSError, ValueError, RuntimeError, TypeError, OverflowError, KeyError)


@dataclass(frozen=True)
class Encoded:
    """A file's bytes, and what they could not hold, one sentence each."""

    data: bytes
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Raster:
    """What an encoder is given: samples (H, W, 1 or 3), alpha (H, W) of their dtype or None."""

    samples: Integers
    alpha: Integers | None
    info: PictureInfo
    options: OutputSettings


def write_picture(picture: Picture, fmt: str, options: OutputSettings) -> bytes:
    """Encode a picture; as `encode_picture`, without its warnings."""
    return encode_picture(picture, fmt, options).data


def encode_picture(picture: Picture, fmt: str, options: OutputSettings) -> Encoded:
    """Encode a picture.

    Args:
        picture: What to store; its info says how it was stored before.
        fmt: A format, or `keep` for the source's own.
        options: Qualities, metadata policy, colour under transparency.

    Raises:
        EncodeError: The format cannot hold the picture, or the encoder failed.
        NonFiniteError: A pixel is not a number.
    """
    form = FORMATS[output_format(picture.info.format, fmt)]
    depth = picture.info.depth if picture.info.depth in form.depths else 8
    raster = _raster(picture, depth, options)
    if raster.alpha is not None and not form.alpha:
        raster = _flatten(raster, form.label)
    info, warnings = _kept(raster.info, form.name, options)
    if depth < picture.info.depth:
        warnings.append(f"a 16-bit source is stored with 8 bits: {form.label} holds no more")
    data, failures = _encode(_ENCODERS[form.name], replace(raster, info=info), form.label)
    return Encoded(data, (*warnings, *failures))


def _raster(picture: Picture, depth: int, options: OutputSettings) -> _Raster:
    gray = picture.info.mode == "gray"
    samples = to_integers(picture.pixels, depth=depth, gray=gray)
    alpha = picture.alpha
    if alpha is not None and picture.hidden is not None:
        samples[alpha == 0] = _at_depth(picture.hidden, depth)
    if alpha is not None:
        alpha = _at_depth(alpha, depth)
    return _Raster(samples, alpha, picture.info, options)


def _at_depth(values: Integers, depth: int) -> Integers:
    if values.dtype == np.uint16 and depth == 8:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values


def _flatten(raster: _Raster, label: str) -> _Raster:
    """Put a colour under transparency; blended as encoded, as browsers and editors do."""
    assert raster.alpha is not None
    if is_opaque(raster.alpha):
        return replace(raster, alpha=None)
    if raster.options.flatten is None:
        raise EncodeError(
            f"has transparency, {label} cannot hold it",
            hint="Use --format png, or --set output.flatten=white.",
        )
    top = np.iinfo(raster.samples.dtype).max
    colour = np.array(_colour(raster.options.flatten), np.float32) * (top / 255)
    # A coloured ground makes a gray picture coloured; a gray one does not.
    ground = colour if raster.samples.shape[2] == 3 or len(set(colour)) > 1 else colour[:1]
    cover: Floats = raster.alpha[..., np.newaxis].astype(np.float32) / np.float32(top)
    blend = raster.samples * cover + ground.astype(np.float32) * (1 - cover)
    return replace(raster, samples=np.rint(blend).astype(raster.samples.dtype), alpha=None)


def _colour(name: str) -> tuple[int, int, int]:
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise EncodeError(
            f'output.flatten: "{name}" is not a colour', hint="Use a name, or #rrggbb."
        ) from error


def _kept(info: PictureInfo, fmt: str, options: OutputSettings) -> tuple[PictureInfo, list[str]]:
    """Apply the metadata policy and the format's own limits."""
    warnings: list[str] = []
    if options.metadata == "none":
        return PictureInfo(info.format, info.mode, info.depth, lossless=info.lossless), warnings
    if options.metadata == "safe":
        colour = tuple(chunk for chunk in info.chunks if chunk[0] in png.COLOUR)
        info = replace(info, exif=None, xmp=None, chunks=colour)
    if info.icc and not FORMATS[fmt].icc:
        warnings.append(f"{FORMATS[fmt].label} holds no colour profile: colours may look different")
        info = replace(info, icc=None)
    if info.icc and info.icc[16:20] == b"GRAY" and fmt in ("webp", "avif"):
        warnings.append(f"the gray profile does not fit a colour {FORMATS[fmt].label}: dropped")
        info = replace(info, icc=None)
    return info, warnings


def _encode(
    encoder: Callable[[_Raster], bytes], raster: _Raster, label: str
) -> tuple[bytes, tuple[str, ...]]:
    """Encode with all metadata, else with the profile only, else with none."""
    refused = ""
    for info in _attempts(raster.info):
        try:
            data = encoder(replace(raster, info=info))
        except _LIBRARY_ERRORS as error:
            refused = refused or str(error)
            last = error
        else:
            return data, (f"metadata was not kept: {refused}",) if refused else ()
    raise EncodeError(f"cannot be stored as {label}: {last}") from last


def _attempts(info: PictureInfo) -> Iterator[PictureInfo]:
    yield info
    if info.exif or info.xmp or info.chunks or info.dpi:
        yield replace(info, exif=None, xmp=None, chunks=(), dpi=None)
    if info.icc:
        yield replace(info, icc=None, exif=None, xmp=None, chunks=(), dpi=None)


def _image(raster: _Raster) -> Image.Image:
    """Return the raster as an 8-bit Pillow image (L, LA, RGB or RGBA)."""
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


def _jpeg(raster: _Raster) -> bytes:
    info = raster.info
    params = {
        "quality": raster.options.jpeg_quality,
        "subsampling": 0,
        "icc_profile": info.icc,
        "exif": PREFIX + info.exif if info.exif else None,
        "xmp": info.xmp,
        "dpi": info.dpi,
    }
    return _save(_image(raster), "JPEG", params)


def _webp(raster: _Raster) -> bytes:
    info = raster.info
    params = {
        "quality": raster.options.webp_quality,
        "lossless": info.lossless,
        "method": _WEBP_EFFORT,
        "exact": True,  # colours under transparency stay as they are
        "icc_profile": info.icc,
        "exif": info.exif,
        "xmp": info.xmp,
    }
    return _save(_image(raster), "WEBP", params)


def _avif(raster: _Raster) -> bytes:
    info = raster.info
    params = {
        "quality": raster.options.avif_quality,
        "subsampling": "4:4:4",
        "speed": _AVIF_SPEED,
        "icc_profile": info.icc,
        "exif": PREFIX + info.exif if info.exif else None,
        "xmp": info.xmp,
    }
    return _save(_image(raster), "AVIF", params)


def _bmp(raster: _Raster) -> bytes:
    return _save(_image(raster), "BMP", {"dpi": raster.info.dpi})


def _tiff(raster: _Raster) -> bytes:
    info = raster.info
    tags = tiff.TiffTags(icc=info.icc, exif=info.exif, xmp=info.xmp, dpi=info.dpi)
    return tiff.write(raster.samples, raster.alpha, tags)


def _png(raster: _Raster) -> bytes:
    shallow_gray_alpha = (
        raster.alpha is not None
        and raster.samples.shape[2] == 1
        and raster.samples.dtype == np.uint8
    )
    # OpenCV is several times faster, but knows no gray with alpha.
    data = _png_by_pillow(raster) if shallow_gray_alpha else _png_by_opencv(raster)
    return png.insert(data, _png_chunks(raster.info))


def _png_by_pillow(raster: _Raster) -> bytes:
    level = 1 if raster.options.png_level == "fast" else _PNG_SMALL_LEVEL
    return _save(_image(raster), "PNG", {"compress_level": level})


def _png_by_opencv(raster: _Raster) -> bytes:
    import cv2

    samples = raster.samples
    if raster.alpha is not None:
        colours = samples.repeat(3, axis=2) if samples.shape[2] == 1 else samples[..., ::-1]
        samples = np.dstack([colours, raster.alpha])
    elif samples.shape[2] == 3:
        samples = np.ascontiguousarray(samples[..., ::-1])
    params: list[int] = []
    if raster.options.png_level == "small":
        params = [cv2.IMWRITE_PNG_COMPRESSION, _PNG_SMALL_LEVEL]
        params += [cv2.IMWRITE_PNG_STRATEGY, _PNG_FILTERED]
        params += [cv2.IMWRITE_PNG_FILTER, _PNG_ALL_FILTERS]
    done, encoded = cv2.imencode(".png", samples, params)
    if not done:
        raise ValueError("OpenCV could not encode the PNG")
    return bytes(encoded)


def _png_chunks(info: PictureInfo) -> Iterator[png.Chunk]:
    if info.icc:
        yield png.icc_chunk(info.icc)
    yield from info.chunks
    if info.dpi:
        yield png.dpi_chunk(info.dpi)
    if info.exif:
        yield png.exif_chunk(info.exif)
    if info.xmp:
        yield png.xmp_chunk(info.xmp)


_ENCODERS: Final[dict[str, Callable[[_Raster], bytes]]] = {
    "jpeg": _jpeg,
    "png": _png,
    "webp": _webp,
    "tiff": _tiff,
    "avif": _avif,
    "bmp": _bmp,
}
