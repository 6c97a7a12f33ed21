"""Writes TIFF files with tifffile, and adds the EXIF directories, which it does not support."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from varfix.engine.image.metadata import exif_block, iptc, resolution, tiff_tags
from varfix.engine.image.metadata.exif_block import (
    ASCII,
    EXIF_POINTER,
    GPS_POINTER,
    Directory,
    ExifBlock,
    Value,
)
from varfix.engine.image.metadata.resolution import Resolution

Integers = npt.NDArray[Any]

_BYTE, _LONG, _UNDEFINED = 1, 4, 7
_FRACTIONS: Final = {5: "I", 10: "i"}
_PHOTOMETRIC: Final = {1: "minisblack", 3: "rgb", 4: "separated"}

# Level 6 costs three times as long for a few percent.
_ZLIB_LEVEL: Final = 3


@dataclass(frozen=True)
class TiffTags:
    """Metadata for a TIFF file; None for each part that is missing."""

    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    resources: bytes | None = None
    resolution: Resolution | None = None


def write(
    samples: Integers, alpha: Integers | None, tags: TiffTags, extra: Integers | None = None
) -> bytes:
    """Encode a TIFF, deflate-compressed.

    Args:
        samples: (H, W, 1, 3 or 4) uint8 or uint16: gray, RGB or CMYK.
        alpha: (H, W) of the same dtype, or None.
        tags: Metadata.
        extra: (H, W, N) of the same dtype: channels of unspecified meaning, or None.

    Raises:
        ValueError: The metadata is damaged or does not fit.
    """
    import tifffile

    planes = [plane for plane in (samples, alpha, extra) if plane is not None]
    stacked = samples if len(planes) == 1 else np.dstack(planes)
    block = _block(tags.exif)
    pixels, unit = resolution.tiff_fields(tags.resolution) if tags.resolution else (None, None)
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        stacked[..., 0] if stacked.shape[2] == 1 else stacked,
        byteorder="<" if block.order == "<" else ">",
        photometric=_PHOTOMETRIC[samples.shape[2]],
        planarconfig="contig" if stacked.shape[2] > 1 else None,
        extrasamples=_extra_samples(alpha, extra),
        compression="zlib",
        compressionargs={"level": _ZLIB_LEVEL},
        predictor=True,
        maxworkers=1,
        metadata=None,
        software=False,
        resolution=pixels,
        resolutionunit=unit,
        iccprofile=tags.icc,
        extratags=_extra_tags(tags, block),
    )
    return _graft(out.getvalue(), block)


def _block(exif: bytes | None) -> ExifBlock:
    if exif is None:
        return ExifBlock("<")
    return tiff_tags.for_tiff(exif_block.parse(exif))[0]


def _extra_samples(alpha: Integers | None, extra: Integers | None) -> list[str] | None:
    kinds = [] if alpha is None else ["unassalpha"]
    kinds += [] if extra is None else ["unspecified"] * extra.shape[2]
    return kinds or None


def _extra_tags(tags: TiffTags, block: ExifBlock) -> list[tuple[int, int, int, Any, bool]]:
    extra: list[tuple[int, int, int, Any, bool]] = []
    if tags.xmp:
        extra.append((tiff_tags.XMP, _BYTE, len(tags.xmp), tags.xmp, True))
    if tags.resources:
        record = iptc.record_of(tags.resources)
        if record:
            extra.append((tiff_tags.IPTC, _UNDEFINED, len(record), record, True))
        if not record or tags.resources != iptc.resources(record):
            blocks = (tiff_tags.PHOTOSHOP, _BYTE, len(tags.resources), tags.resources, True)
            extra.append(blocks)
    extra += [
        (code, value.kind, value.count, _packed(value, block.order), True)
        for code, value in block.main.items()
    ]
    extra += [(code - 1, _LONG, 1, 0, True) for code in _subdirectories(block)]
    return extra


def _packed(value: Value, order: str) -> Any:
    """Return a value for tifffile: bytes, but numbers for fractions, which it counts wrongly."""
    if value.kind in _FRACTIONS:
        return struct.unpack(f"{order}{2 * value.count}{_FRACTIONS[value.kind]}", value.data)
    ended = value.kind != ASCII or value.data.endswith(b"\x00")
    return value.data if ended else value.data + b"\x00"


def _subdirectories(block: ExifBlock) -> dict[int, Directory]:
    found = {EXIF_POINTER: block.exif, GPS_POINTER: block.gps}
    return {code: directory for code, directory in found.items() if directory}


def _graft(data: bytes, block: ExifBlock) -> bytes:
    """Append the EXIF and GPS directories, and write their offsets into the reserved tags.

    tifffile does not write these two tags. They are reserved under the codes below them, which are
    unused and keep the order that a directory must have.
    """
    directories = _subdirectories(block)
    if not directories:
        return data
    import tifffile

    out = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        reserved = {code: page.tags[code - 1] for code in directories}
    for code, tag in reserved.items():
        out += bytes(len(out) % 2)  # directories begin on even offsets
        struct.pack_into(f"{block.order}H", out, tag.offset, code)
        struct.pack_into(f"{block.order}I", out, tag.valueoffset, len(out))
        interop = block.interop if code == EXIF_POINTER else {}
        out += exif_block.with_interop(directories[code], interop, block.order, len(out))
    return bytes(out)
