"""TIFF files that no library writes."""

import io
import struct

import numpy as np
import tifffile
from PIL import Image

from varfix.engine.image.decoded_image import to_integers
from varfix.engine.image.metadata.exif_block import Value, lay_out

HEIGHT = 37
WIDTH = 50
LZW = 5


def stored(image):
    """Return the samples of an image as its file has them."""
    return to_integers(image.pixels, depth=image.info.depth, gray=image.info.mode == "gray")


def noise(channels, dtype=np.uint16):
    """Return random samples (HEIGHT, WIDTH, channels)."""
    shape = (HEIGHT, WIDTH, channels)
    return np.random.default_rng(7).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)


def lzw(data):
    """Compress bytes by libtiff."""
    out = io.BytesIO()
    gray = Image.frombytes("L", (len(data), 1), data)
    gray.save(out, "TIFF", compression="tiff_lzw")
    out.seek(0)
    with tifffile.TiffFile(out) as file:
        page = file.pages[0]
        assert len(page.dataoffsets) == 1
        return out.getvalue()[page.dataoffsets[0] :][: page.databytecounts[0]]


def segments(array, tile, planar, order, predictor):
    """Cut an image into the strips or tiles of a TIFF, as bytes."""
    array = array.astype(array.dtype.newbyteorder(order))
    planes = np.moveaxis(array, 2, 0)[..., np.newaxis] if planar else array[np.newaxis]
    tall, wide = tile or (16, array.shape[1])
    for plane in planes:
        for top in range(0, array.shape[0], tall):
            for left in range(0, array.shape[1], wide):
                block = plane[top : top + tall, left : left + wide]
                if tile:
                    rest = tall - block.shape[0], wide - block.shape[1]
                    block = np.pad(block, ((0, rest[0]), (0, rest[1]), (0, 0)))
                if predictor:
                    first = block[:, :1]
                    block = np.concatenate([first, np.diff(block, axis=1)], axis=1)
                yield block.astype(block.dtype.newbyteorder(order)).tobytes()


def tiff(
    array,
    *,
    tile=None,
    planar=False,
    order="<",
    predictor=False,
    encode=lzw,
    code=LZW,
    orientation=1,
):
    """Write a TIFF by hand: tifffile alone writes none of these."""
    height, width, channels = array.shape
    parts = [encode(part) for part in segments(array, tile, planar, order, predictor)]
    places = np.cumsum([8, *map(len, parts)])
    offsets, counts, tall = (324, 325, 322) if tile else (273, 279, 278)
    bits = (8 * array.dtype.itemsize,) * channels
    tags = {
        256: ("H", width),
        257: ("H", height),
        258: ("H", *bits),
        259: ("H", code),
        262: ("H", 2 if channels == 3 else 1),
        274: ("H", orientation),
        277: ("H", channels),
        284: ("H", 2 if planar else 1),
        317: ("H", 2 if predictor else 1),
        offsets: ("I", *places[:-1]),
        counts: ("I", *map(len, parts)),
        tall: ("H", tile[1] if tile else 16),
    }
    if tile:
        tags[323] = ("H", tile[0])
    directory = {
        tag: Value(
            {"H": 3, "I": 4}[kind], len(values), struct.pack(f"{order}{len(values)}{kind}", *values)
        )
        for tag, (kind, *values) in tags.items()
    }
    end = int(places[-1]) + int(places[-1]) % 2
    head = {"<": b"II*\x00", ">": b"MM\x00*"}[order] + struct.pack(f"{order}I", end)
    return (head + b"".join(parts)).ljust(end, b"\x00") + lay_out(directory, order, end)
