"""Small images as files, and back."""

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from varfix.engine.image.reader import decode_image
from varfix.engine.image.writer import encode_image_bytes
from varfix.engine.settings.types import OutputSettings

LIMIT = 500_000_000
KEEP = OutputSettings()
HEIGHT, WIDTH = 13, 22
FILES = Path(__file__).parents[3] / "shared/data/files"


def noise(channels=3, dtype=np.uint8, seed=0):
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def smooth():
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    return np.dstack(
        [np.tile(ramp, (48, 1)), np.tile(ramp[::-1], (48, 1)), np.full((48, 64), 90, np.uint8)]
    )


def saved(image, fmt, **params):
    out = io.BytesIO()
    image.save(out, fmt, **params)
    return out.getvalue()


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def read(data):
    return decode_image(data, max_pixels=LIMIT)


def round_trip(data, fmt="keep", options=KEEP):
    return encode_image_bytes(read(data), fmt, options)


def png_chunk(kind, payload):
    check = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", check)


def raw_png(array, color_type, *chunks, depth=16):
    """Write a PNG by hand: no library writes gray with alpha, or tRNS, at 16 bits."""
    height, width = array.shape[:2]
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + png_chunk(b"IEND", b"")


def decoded_png(data):
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return array if array.ndim == 2 else array[..., [2, 1, 0, 3][: array.shape[2]]]


def shared(name):
    """Return a file of another program; skip the test where the files are not there."""
    path = FILES / name
    if not path.exists():
        pytest.skip("../shared is not here")
    return path.read_bytes()
