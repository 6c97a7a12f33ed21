"""Images come upright, and say so."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from support import images as kit

from varfix.engine.image.decoded_image import to_integers
from varfix.engine.image.header import probe
from varfix.engine.image.writer import encode_image_bytes


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
