"""A decoded image: the input of the model, and everything that the result takes over unchanged.

The model gets float32 RGB. The conversion from integers to floats and back is exact for 8 and 16
bits, so that a model that changes nothing returns the pixels of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from varfix.engine.errors import NonFiniteError
from varfix.engine.image.color import SourceSamples
from varfix.engine.image.jpeg_coding import JpegCoding
from varfix.engine.image.metadata.iptc import record_of
from varfix.engine.image.metadata.resolution import Resolution

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[Any]

# Number of rows that are converted at a time, so that temporary arrays are small.
BAND = 256


@dataclass(frozen=True)
class ImageInfo:
    """Format and metadata of a source file, which its result takes over.

    Attributes:
        format: A key of `formats.FORMATS`.
        mode: `gray` is stored with one channel, `rgb` with three, `cmyk` with four.
        depth: 8 or 16 bits per channel.
        icc: Color profile, as in the file.
        icc_is_implied: The file has no profile; `icc` was computed from its other color metadata.
        exif: TIFF-structured EXIF without the `Exif` prefix; orientation 1, no thumbnail.
        xmp: XMP packet; orientation 1.
        resources: Photoshop image resources: an IPTC record, clipping paths.
        comment: Comment of a JPEG, in its own encoding, which is not recorded.
        resolution: Resolution of the upright image, if the file states one.
        lossless: The source is a lossless WebP, or an AVIF in RGB, which is meant to be lossless.
        jpeg: Coding of a JPEG; None for other formats.
        chunks: PNG chunks (type, payload) about color and text, which a PNG result keeps.
        warnings: One sentence for each part that is lost or ignored.
    """

    format: str
    mode: str = "rgb"
    depth: int = 8
    icc: bytes | None = None
    icc_is_implied: bool = False
    exif: bytes | None = None
    xmp: bytes | None = None
    resources: bytes | None = None
    comment: bytes | None = None
    resolution: Resolution | None = None
    lossless: bool = False
    jpeg: JpegCoding | None = None
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    warnings: tuple[str, ...] = field(default=())

    @property
    def iptc(self) -> bytes | None:
        """IPTC record (IIM), as in the file."""
        return record_of(self.resources) if self.resources else None


@dataclass(frozen=True)
class DecodedImage:
    """One image, upright.

    Attributes:
        pixels: (H, W, 3) float32 in [0, 1], sRGB.
        alpha: (H, W) uint8 or uint16 as in the file, or None.
        info: Format and metadata of the source.
        hidden: (N, 1 or 3) integers: colors of the source where alpha is 0, in row order. The
            model gets neighboring colors there; the encoder restores these.
        origin: Samples of the source; None if its colors are sRGB.
        extra: (H, W, N) integers: channels of a TIFF whose meaning it does not state, or None.
        restored: The pixels differ from those of the source.
    """

    pixels: Floats
    alpha: Integers | None
    info: ImageInfo
    hidden: Integers | None = None
    origin: SourceSamples | None = None
    extra: Integers | None = None
    restored: bool = False

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        own = self.origin.samples if self.origin else None
        arrays = (self.pixels, self.alpha, self.hidden, own, self.extra)
        return sum(array.nbytes for array in arrays if array is not None)


def is_opaque(alpha: Integers) -> bool:
    """Return whether alpha (H, W) is opaque: without it, an 8-bit result would be the same."""
    top = np.iinfo(alpha.dtype).max
    return bool(alpha.min() >= top - top // 255 + 1) if alpha.size else True


def replace_pixels(image: DecodedImage, pixels: Floats) -> DecodedImage:
    """Return a copy of an image with other pixels and the same metadata.

    Args:
        image: Image with the alpha and the metadata of the copy.
        pixels: (H, W, 3) float32 of the same size.

    Raises:
        ValueError: The size differs: alpha and metadata would no longer fit.
    """
    if pixels.shape != image.pixels.shape:
        raise ValueError(f"expected pixels {image.pixels.shape}, got {pixels.shape}")
    return replace(image, pixels=pixels, restored=True)


def replace_xmp(image: DecodedImage, packet: bytes | None) -> DecodedImage:
    """Return a copy of an image with another XMP packet."""
    return replace(image, info=replace(image.info, xmp=packet))


def to_floats(samples: Integers) -> Floats:
    """Convert samples of a file to the input of the model.

    Args:
        samples: (H, W), (H, W, 1) or (H, W, 3), uint8 or uint16.

    Returns:
        (H, W, 3) float32 in [0, 1]; gray is repeated.
    """
    gray = samples.ndim == 2 or samples.shape[2] == 1
    height, width = samples.shape[:2]
    top = np.float32(np.iinfo(samples.dtype).max)
    pixels = np.empty((height, width, 3), np.float32)
    values = samples.reshape(height, width, 1) if gray else samples
    np.divide(values, top, out=pixels, dtype=np.float32)
    return pixels


def to_integers(pixels: Floats, *, depth: int, gray: bool) -> Integers:
    """Convert model colors to samples of a file: round half to even, clip; undo `to_floats`.

    Args:
        pixels: (H, W, 3) float32, nominally in [0, 1].
        depth: 8 or 16.
        gray: Store the mean of the three channels.

    Returns:
        (H, W, 1 or 3) uint8 or uint16.

    Raises:
        NonFiniteError: A value is NaN or infinite; a cast would make it black.
    """
    kind = np.uint8 if depth == 8 else np.uint16
    top = np.float32(np.iinfo(kind).max)
    height, width = pixels.shape[:2]
    samples = np.empty((height, width, 1 if gray else 3), kind)
    for row in range(0, height, BAND):
        band = pixels[row : row + BAND]
        if not np.isfinite(band).all():
            raise NonFiniteError("the model produced invalid values")
        if gray:
            band = band.mean(axis=2, dtype=np.float32, keepdims=True)
        samples[row : row + BAND] = np.clip(np.rint(band * top), 0, top)
    return samples


def fill_transparent(samples: Integers, alpha: Integers) -> Integers:
    """Fill fully transparent pixels with the colors around them.

    Editors leave black or noise there, which a model would blend into the visible edge.

    Args:
        samples: (H, W, C) uint8 or uint16.
        alpha: (H, W).

    Returns:
        (H, W, C) of the same dtype; visible pixels are untouched.
    """
    visible = alpha != 0
    if visible.all() or not visible.any():
        return samples
    weight = visible.astype(np.float32)[..., np.newaxis]
    coarse = _fill_holes(_halve(samples * weight), _halve(weight))
    rows, columns = np.nonzero(~visible)
    painted = samples.copy()
    painted[rows, columns] = np.rint(coarse[rows // 2, columns // 2])
    return painted


def _fill_holes(color: Floats, weight: Floats) -> Floats:
    """Fill holes (weight 0) with averages over growing blocks of pixels.

    Args:
        color: (H, W, C) weighted colors.
        weight: (H, W, 1) in [0, 1].

    Returns:
        (H, W, C) colors without holes.
    """
    height, width = weight.shape[:2]
    holes = weight == 0
    own: Floats = np.divide(color, weight, out=np.zeros_like(color), where=~holes)
    if not holes.any() or height * width == 1:
        return own
    coarse = _fill_holes(_halve(color), _halve(weight))
    rows, columns = np.nonzero(holes[..., 0])
    own[rows, columns] = coarse[rows // 2, columns // 2]
    return own


def _halve(plane: Floats) -> Floats:
    """Average 2 x 2 blocks; an odd last row or column counts as if followed by empty pixels."""
    height, width = plane.shape[:2]
    even = np.pad(plane, ((0, height % 2), (0, width % 2), (0, 0)))
    # Two plain sums are several times faster than a mean over the axes of blocks.
    columns: Floats = even[0::2] + even[1::2]
    blocks: Floats = columns[:, 0::2] + columns[:, 1::2]
    blocks *= np.float32(0.25)
    return blocks
