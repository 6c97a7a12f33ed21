"""Writing images: upright float pixels in, a whole file's bytes out.

Metadata that a format or library refuses costs a warning, never the image.
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
from varfix.engine.image.metadata.fit import fitted
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
    SyntaxError,  # Pillow's word for a TIFF, or an EXIF block, that is none
    struct.error,
)


@dataclass(frozen=True)
class Encoded:
    """A file's bytes, and what they could not hold, one sentence each."""

    data: bytes
    warnings: tuple[str, ...] = ()


def encode_image_bytes(image: DecodedImage, fmt: str, options: OutputSettings) -> bytes:
    """Encode an image; as `encode_image`, without its warnings."""
    return encode_image(image, fmt, options).data


def encode_image(image: DecodedImage, fmt: str, options: OutputSettings) -> Encoded:
    """Encode an image.

    Args:
        image: The image to store; its info describes the source file.
        fmt: A format, or `keep` for the source's own.
        options: Qualities, metadata policy, color under transparency.

    Raises:
        EncodeError: The format cannot hold the image, or the encoder failed.
        NonFiniteError: A pixel is not a number.
    """
    form = FORMATS[output_format(image.info.format, fmt)]
    if not form.available:
        raise EncodeError(f"cannot be stored as {form.label}", hint=form.remedy)
    kept, warnings = _settled(image, form, options)
    if image.extra is not None and form.name != "tiff":
        warnings.append(f"{form.label} holds no extra channels: they are not kept")
    depth = kept.info.depth if kept.info.depth in form.depths else 8
    if depth < kept.info.depth:
        warnings.append(f"a 16-bit source is stored with 8 bits: {form.label} holds no more")
    try:
        data, failures = _encode(_raster(kept, depth, options), form, _attempts(kept))
    except EncodeError:
        if kept.origin is None or not kept.info.icc:
            raise
        kept = _as_srgb(kept, kept.origin)
        warnings.append("colors are converted to sRGB: their profile cannot be stored")
        data, failures = _encode(_raster(kept, depth, options), form, _attempts(kept))
    return Encoded(data, (*warnings, *failures))


def _settled(
    image: DecodedImage, form: Format, options: OutputSettings
) -> tuple[DecodedImage, list[str]]:
    """Leave only the metadata that policy and format allow, with colors that fit what is left."""
    info, warnings = fitted(image.info, form, options)
    kept = replace(image, info=info)
    lost = _lost_meaning(image, info, form)
    if image.origin is None or not lost:
        return kept, warnings
    warnings.append(f"colors are converted to sRGB: {lost}")
    return _as_srgb(kept, image.origin), warnings


def _lost_meaning(image: DecodedImage, info: ImageInfo, form: Format) -> str:
    """Say why the file's own colors cannot be stored; empty = they can."""
    if image.info.mode == "cmyk" and not form.cmyk:
        return f"{form.label} holds no CMYK"
    if info.icc == image.info.icc:
        return ""
    return "their profile is not kept" if form.icc else f"{form.label} holds no color profile"


def _as_srgb(image: DecodedImage, origin: SourceSamples) -> DecodedImage:
    """Return the image with its pixels, which are sRGB, as the colors to store."""
    mode = "gray" if image.info.mode == "gray" else "rgb"
    info = replace(image.info, mode=mode, icc=None)
    hidden = image.hidden
    if hidden is not None:
        pixels = samples_to_rgb(hidden[np.newaxis], origin.space)
        hidden = to_integers(pixels, depth=info.depth, gray=mode == "gray")[0]
    return replace(image, info=info, origin=None, hidden=hidden)


def _raster(image: DecodedImage, depth: int, options: OutputSettings) -> Raster:
    if image.origin is not None:
        samples = _at_depth(apply_restored(image.origin, image.pixels), depth)
    else:
        gray = image.info.mode == "gray"
        samples = to_integers(image.pixels, depth=depth, gray=gray)
    alpha = image.alpha
    if alpha is not None and image.hidden is not None:
        samples[alpha == 0] = _at_depth(image.hidden, depth)
    if alpha is not None:
        alpha = _at_depth(alpha, depth)
    extra = None if image.extra is None else _at_depth(image.extra, depth)
    return Raster(samples, alpha, image.info, options, extra)


def _at_depth(values: Integers, depth: int) -> Integers:
    if values.dtype == np.uint16 and depth == 8:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return values


def _is_flattened(form: Format, options: OutputSettings) -> bool:
    return not form.alpha or (form.alpha_is_rare and options.flatten is not None)


def _flatten(raster: Raster, label: str) -> Raster:
    """Put a color under transparency; blended as encoded, as browsers and editors do."""
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
    # A colored ground makes a gray image colored; a gray one does not.
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
    """Encode with the first metadata that is not refused."""
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


def _attempts(image: DecodedImage) -> Iterator[ImageInfo]:
    """Yield all metadata, all but one part of it, then the profile only, then none.

    The profile stays where the colors depend on it.
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
    bare = replace(parts[0], exif=None, resources=None, comment=None, chunks=(), dpi=None)
    if bare != info:
        yield bare
    if info.icc and image.origin is None:
        yield replace(bare, icc=None)
