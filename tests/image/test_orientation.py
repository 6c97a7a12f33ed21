"""Images come upright, and say so."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from support import images as kit
from support.exif import text, written
from support.images import shared

from varfix.engine.image.decoded_image import to_integers
from varfix.engine.image.header import probe
from varfix.engine.image.metadata import exif_block
from varfix.engine.image.metadata.exif import orientation_of, upright_exif
from varfix.engine.image.metadata.exif_block import ExifBlock, Value
from varfix.engine.image.writer import encode_image, encode_image_bytes


def turned(array, orientation, fmt):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True, "exact": True} if fmt == "WEBP" else {}
    return kit.saved(Image.fromarray(array), fmt, exif=exif, **lossless)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP"])
def test_images_are_rotated_upright_and_tagged_so(fmt, orientation):
    array = kit.noise(4)
    data = turned(array, orientation, fmt)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    header = probe(data)
    assert (header.height, header.width) == upright.shape[:2]
    result = kit.opened(kit.round_trip(data))
    assert np.array_equal(np.asarray(result), upright)
    assert result.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "AVIF"])
def test_lossy_images_are_turned_upright(fmt, orientation):
    data = turned(kit.smooth(), orientation, fmt)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    header = probe(data)
    assert (header.height, header.width) == upright.shape[:2]
    image = kit.read(data)
    assert np.array_equal(to_integers(image.pixels, depth=8, gray=False), upright)
    assert kit.opened(encode_image_bytes(image, "keep", kit.KEEP)).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_images_are_turned_upright_too(orientation):
    array = kit.noise(3, np.uint16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = exif.tobytes().removeprefix(b"Exif\x00\x00")
    out = io.BytesIO()
    tifffile.imwrite(out, array, photometric="rgb", extratags=[(0x0112, 3, 1, orientation, True)])
    results = [
        kit.decoded_png(kit.round_trip(kit.raw_png(array, 2, kit.png_chunk(b"eXIf", block)))),
        tifffile.imread(io.BytesIO(kit.round_trip(out.getvalue()))),
    ]
    grid = Image.fromarray(
        np.arange(kit.HEIGHT * kit.WIDTH, dtype=np.int32).reshape(kit.HEIGHT, kit.WIDTH)
    )
    grid.getexif()[0x0112] = orientation
    order = np.asarray(ImageOps.exif_transpose(grid))
    header = probe(out.getvalue())
    assert (header.height, header.width) == order.shape
    for result in results:
        assert np.array_equal(result, array.reshape(-1, 3)[order])


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind, code", [(1, "B"), (3, "H"), (4, "I"), (6, "b"), (8, "h"), (9, "i")])
def test_orientation_of_every_number_type_is_read_and_reset(kind, code, order):
    value = Value(kind, 1, struct.pack(f"{order}{code}", 6))
    packed = exif_block.pack(ExifBlock(order, {0x0112: value, 271: text("Maker")}))
    assert orientation_of(packed) == 6
    data = written("jpeg", packed)
    image = kit.read(data)
    assert image.pixels.shape == (64, 48, 3)
    assert orientation_of(image.info.exif) == 1
    result = kit.opened(encode_image(image, "keep", kit.KEEP).data)
    assert result.getexif()[0x0112] in (1, b"\x01")
    assert upright_exif(packed, 1, 1) != packed


def test_orientation_of_another_program_is_reset():
    result = kit.opened(kit.round_trip(shared("j_ori6_II_type1.jpg")))
    assert result.size == (192, 256)
    assert result.getexif()[0x0112] in (1, b"\x01")
