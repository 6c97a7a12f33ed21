"""Encodes images: upright float pixels in, the bytes of a file out.

Metadata that a format or library rejects is left out with a warning; the image is still written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from PIL import ImageColor

from varfix.engine.errors import EncodeError
from varfix.engine.formats import FORMATS, Format, output_format
from varfix.engine.image.color import SourceSamples, apply_restored, samples_to_rgb
from varfix.engine.image.decoded_image import (
    DecodedImage,
    Floats,
    ImageInfo,
    Integers,
    is_opaque,
    to_integers,
)
from varfix.engine.image.encoders import ENCODERS, Raster
from varfix.engine.image.metadata.fit import fit_metadata
from varfix.engine.settings.types import OutputSettings

_LIBRARY_ERRORS: Final = (
    OSError,
    ValueError,
    RuntimeError,
    TypeError,
    OverflowError,
    KeyError,
    IndexError,
    EOFError,
    SyntaxError,  # raised by Pillow for an invalid TIFF or EXIF block
    struct.error,
)


@dataclass(frozen=True)
class Encoded:
    """An encoded file.

    Attributes:
        data: Its bytes.
        warnings: One sentence for each part of the image that the format cannot store.
    """

    data: bytes
    warnings: tuple[str, ...] = ()


def encode_image_bytes(image: DecodedImage, fmt: str, options: OutputSettings) -> bytes:
    """Encode an image; return the bytes of `encode_image` without its warnings."""
    return encode_image(image, fmt, options).data


def encode_image(image: DecodedImage, fmt: str, options: OutputSettings) -> Encoded:
    """Encode an image.

    Args:
        image: Image to store; its info describes the source file.
        fmt: A format, or `keep` for the format of the source.
        options: Quality settings, metadata policy, background color.

    Raises:
        EncodeError: The format cannot store the image, or the encoder failed.
        NonFiniteError: A value is NaN or infinite.
    """
    form = FORMATS[output_format(image.info.format, fmt)]
    if not form.available:
        raise EncodeError(f"cannot be stored as {form.label}", hint=form.remedy)
    kept, warnings = _fit_to_format(image, form, options)
    if image.extra is not None and form.name != "tiff":
        warnings.append(f"{form.label} cannot store extra channels: they are not kept")
    depth = kept.info.depth if kept.info.depth in form.depths else 8
    if depth < kept.info.depth:
        warnings.append(f"a 16-bit source is stored with 8 bits, the most that {form.label} has")
    try:
        data, failures = _encode(_raster(kept, depth, options), form, _metadata_attempts(kept))
    except EncodeError:
        if kept.origin is None or not kept.info.icc:
            raise
        kept = _as_srgb(kept, kept.origin)
        warnings.append("colors are converted to sRGB: their profile cannot be stored")
        data, failures = _encode(_raster(kept, depth, options), form, _metadata_attempts(kept))
    return Encoded(data, (*warnings, *failures))


def _fit_to_format(
    image: DecodedImage, form: Format, options: OutputSettings
) -> tuple[DecodedImage, list[str]]:
    """Reduce the metadata to what policy and format allow; convert the colors if necessary."""
    info, warnings = fit_metadata(image.info, form, options)
    kept = replace(image, info=info)
    lost = _reason_for_srgb(image, info, form)
    if image.origin is None or not lost:
        return kept, warnings
    warnings.append(f"colors are converted to sRGB: {lost}")
    return _as_srgb(kept, image.origin), warnings


def _reason_for_srgb(image: DecodedImage, info: ImageInfo, form: Format) -> str:
    """Return why the colors of the source cannot be stored; empty if they can."""
    if image.info.mode == "cmyk" and not form.cmyk:
        return f"{form.label} cannot store CMYK"
    if info.icc == image.info.icc:
        return ""
    return "their profile is not kept" if form.icc else f"{form.label} cannot store a color profile"


def _as_srgb(image: DecodedImage, origin: SourceSamples) -> DecodedImage:
    """Return the image so that its sRGB pixels are stored instead of samples of the source."""
    mode = "gray" if image.info.mode == "gray" else "rgb"
    info = replace(image.info, mode=mode, icc=None)
    hidden = image.hidden
    if hidden is not None:
        pixels = samples_to_rgb(hidden[np.newaxis], origin.space)
        hidden = to_integers(pixels, depth=info.depth, gray=mode == "gray")[0]
    return replace(image, info=info, origin=None, hidden=hidden)


def _raster(image: DecodedImage, depth: int, options: OutputSettings) -> Raster:
    if image.origin is not None:
        samples = _convert_depth(apply_restored(image.origin, image.pixels), depth)
    else:
        gray = image.info.mode == "gray"
        samples = to_integers(image.pixels, depth=depth, gray=gray)
    alpha = image.alpha
    if alpha is not None and image.hidden is not None:
        samples[alpha == 0] = _convert_depth(image.hidden, depth)
    if alpha is not None:
        alpha = _convert_depth(alpha, depth)
    extra = None if image.extra is None else _convert_depth(image.extra, depth)
    return Raster(samples, alpha, image.info, options, extra, image.restored)


def _convert_depth(values: Integers, depth: int) -> Integers:
    if values.dtype == np.uint16 and depth == 8:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values


def _is_flattened(form: Format, options: OutputSettings) -> bool:
    return not form.alpha or (form.alpha_is_rare and options.flatten is not None)


def _flatten(raster: Raster, label: str) -> Raster:
    """Blend the image with the background color, in encoded values as browsers and editors do."""
    assert raster.alpha is not None
    if is_opaque(raster.alpha):
        return replace(raster, alpha=None)
    if raster.options.flatten is None:
        raise EncodeError(
            f"{label} cannot hold transparency",
            hint="use --format png, or --set output.flatten=white",
        )
    top = np.iinfo(raster.samples.dtype).max
    color = np.array(_color(raster.options.flatten), np.float32) * (top / 255)
    # A colored background turns a gray image into a colored one.
    ground = color if raster.samples.shape[2] == 3 or len(set(color)) > 1 else color[:1]
    cover: Floats = raster.alpha[..., np.newaxis].astype(np.float32) / np.float32(top)
    blend = raster.samples * cover + ground.astype(np.float32) * (1 - cover)
    return replace(raster, samples=np.rint(blend).astype(raster.samples.dtype), alpha=None)


def _color(name: str) -> tuple[int, int, int]:
    try:
        return ImageColor.getrgb(name)[:3]
    except ValueError as error:
        raise EncodeError(
            f'output.flatten: "{name}" is not a color', hint="use a color name, or #rrggbb"
        ) from error


def _encode(
    raster: Raster, form: Format, attempts: Iterable[ImageInfo]
) -> tuple[bytes, tuple[str, ...]]:
    """Encode with the first set of metadata that the encoder accepts."""
    if raster.alpha is not None and _is_flattened(form, raster.options):
        raster = _flatten(raster, form.label)
    refused = ""
    for info in attempts:
        try:
            data = ENCODERS[form.name](replace(raster, info=info))
        except _LIBRARY_ERRORS as error:
            refused = refused or str(error)
            last = error
        else:
            return data, (f"metadata was not kept: {refused}",) if refused else ()
    raise EncodeError(f"cannot be stored as {form.label}: {last}") from last


def _metadata_attempts(image: DecodedImage) -> Iterator[ImageInfo]:
    """Yield all metadata, then all but one part, then the profile only, then none.

    The profile is always kept if the colors depend on it.
    """
    info = image.info
    yield info
    parts = (
        replace(info, xmp=None),
        replace(info, exif=None),
        replace(info, resources=None),
        replace(info, comment=None),
    )
    yield from (lighter for lighter in parts if lighter != info)
    bare = replace(parts[0], exif=None, resources=None, comment=None, chunks=(), resolution=None)
    if bare != info:
        yield bare
    if info.icc and image.origin is None:
        yield replace(bare, icc=None)
