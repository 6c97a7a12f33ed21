"""TIFF files as other programs lay them out: planes, tiles, compressions."""

import hashlib
import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from support import images as kit
from support.images import FILES
from support.tiffs import HEIGHT, LZW, WIDTH, noise, stored, tiff

from varfix.engine.errors import DecodeUnsupportedError
from varfix.engine.image.header import probe

WEBP = 50001
JXL = 50002
LERC = 34887

# Pixels as ImageMagick and libvips decode them: first half of the SHA-256 of the RGB samples.
WITNESSED = {
    "tiff16_lzw_planar.tif": "7a86ab315d95c511",
    "tiff16_lzw_orientation3.tif": "44dbedd63b7e4f00",
    "t_zstd16.tif": "7a86ab315d95c511",
    "t_webp8.tif": "7ea452c772e77c13",
    "t_geo.tif": "7ea452c772e77c13",
    "t_extra0_8.tif": "7ea452c772e77c13",
    "tiff_thumbnail_first.tif": "e1474dea9ac916d4",
}


def digest(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


LAYOUTS = [
    {"planar": planar, "tile": tile, "order": order, "predictor": predictor}
    for planar in (False, True)
    for tile in (None, (16, 32))
    for order in "<>"
    for predictor in (False, True)
]

CASES = [(layout, n) for layout in LAYOUTS for n in (1, 3) if n == 3 or not layout["planar"]]


@pytest.mark.parametrize("layout, channels", CASES, ids=str)
def test_16_bit_lzw_is_read_in_every_layout(layout, channels):
    array = noise(channels)
    assert np.array_equal(stored(kit.read(tiff(array, **layout))), array)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_lzw_is_turned_upright_once(orientation):
    array = noise(3)
    data = tiff(array, orientation=orientation)
    grid = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.int32).reshape(HEIGHT, WIDTH))
    grid.getexif()[0x0112] = orientation
    order = np.asarray(ImageOps.exif_transpose(grid))
    upright = array.reshape(-1, 3)[order]
    assert np.array_equal(stored(kit.read(data)), upright)
    result = kit.round_trip(data)
    assert np.array_equal(tifffile.imread(io.BytesIO(result)), upright)
    assert kit.opened(result).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("name", WITNESSED)
def test_files_of_other_programs_are_read_as_other_programs_read_them(name):
    path = FILES / name
    if not path.exists():
        pytest.skip("../shared is not here")
    image = kit.read(path.read_bytes())
    assert digest(stored(image)) == WITNESSED[name]
    assert probe(path).width == image.pixels.shape[1]


def as_image(fmt):
    def encode(data):
        out = io.BytesIO()
        pixels = np.frombuffer(data, np.uint8).reshape(-1, WIDTH, 3)
        Image.fromarray(pixels).save(out, fmt, lossless=True)
        return out.getvalue()

    return encode


@pytest.mark.parametrize("fmt, code", [("WEBP", WEBP), ("JXL", JXL)])
def test_strips_that_are_files_of_their_own_are_read(fmt, code):
    if fmt == "JXL":
        pytest.importorskip("pillow_jxl")
    array = noise(3, np.uint8)
    data = tiff(array, encode=as_image(fmt), code=code)
    assert np.array_equal(stored(kit.read(data)), array)


def test_a_compression_that_cannot_be_read_is_named():
    if "imagecodecs" in repr(tifffile.TIFF.DECOMPRESSORS):
        pytest.skip("imagecodecs is installed")
    data = tiff(noise(3, np.uint8), encode=bytes, code=LERC)
    with pytest.raises(DecodeUnsupportedError, match=r"TIFF compression \(LERC\)") as caught:
        kit.read(data)
    assert "varfix[tiff]" in caught.value.hint


def test_an_unknown_compression_is_named_by_its_number():
    data = tiff(noise(3), code=LZW)
    at = data.index(struct.pack("<HHIH", 259, 3, 1, LZW)) + 8
    data = data[:at] + struct.pack("<H", 61234) + data[at + 2 :]
    with pytest.raises(DecodeUnsupportedError, match="61234"):
        kit.read(data)


@pytest.mark.parametrize("order", "<>")
def test_a_bigtiff_is_read_or_refused_by_name(order):
    out, array = io.BytesIO(), noise(3)
    tifffile.imwrite(out, array, photometric="rgb", bigtiff=True, byteorder=order)
    if order == "<":
        assert np.array_equal(stored(kit.read(out.getvalue())), array)
        return
    with pytest.raises(DecodeUnsupportedError, match=r"unsupported TIFF \(big-endian BigTIFF\)"):
        kit.read(out.getvalue())
