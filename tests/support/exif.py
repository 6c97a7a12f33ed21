"""EXIF blocks in files of every format."""

import io

import pytest
from PIL import Image
from support import images as kit

from varfix.engine.formats import FORMATS
from varfix.engine.image.metadata import exif_block
from varfix.engine.image.metadata.exif_block import ASCII, Value
from varfix.engine.image.writer import encode_image

HOLDING = ("jpeg", "png", "webp", "tiff", "avif", "heif", "jxl")
"""Formats that hold an EXIF block."""


def text(words):
    """Return a tag's value of text."""
    data = words.encode("utf-8") + b"\x00"
    return Value(ASCII, len(data), data)


def written(fmt, exif):
    """Write a file by Pillow or a plug-in, which leave the block alone."""
    module = FORMATS[fmt].module
    if module:
        pytest.importorskip(module)
    image = Image.fromarray(kit.smooth())
    if fmt == "tiff":
        return encode_image(kit.read(written("jpeg", exif)), "tiff", kit.KEEP).data
    if fmt == "heif":
        import pillow_heif

        out = io.BytesIO()
        pillow_heif.from_pillow(image).save(out, exif=b"Exif\x00\x00" + exif)
        return out.getvalue()
    if fmt == "jxl":
        import pillow_jxl.JpegXLImagePlugin  # noqa: F401 - makes Pillow know the format

        return kit.saved(image, "JXL", exif=bytes(4) + exif)
    return kit.saved(image, fmt.upper(), exif=b"Exif\x00\x00" + exif)


def tags_of(data):
    """Return the raw values of all tags, however the format stores them."""
    raw = kit.read(data).info.exif
    return exif_block.parse(raw)
