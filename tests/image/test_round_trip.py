"""For every format, mode and depth: a model that changes nothing changes nothing.

The pixels go the whole way: decoded, cut into tiles, joined, encoded.
"""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from support.identity import IdentityRestorer

from varfix.engine.formats import FORMATS
from varfix.engine.image.decoded_image import (
    DecodedImage,
    ImageInfo,
    replace_pixels,
    to_floats,
    to_integers,
)
from varfix.engine.image.reader import decode_image
from varfix.engine.image.writer import encode_image
from varfix.engine.restoration.restore_image import restore_image
from varfix.engine.settings.types import OutputSettings, Settings

KEEP = OutputSettings()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>'
HEIGHT, WIDTH = 70, 101  # more than one tile

CHANNELS = {"gray": 1, "gray+alpha": 2, "rgb": 3, "rgb+alpha": 4, "cmyk": 4}

# What is stored without loss: format, depth, modes.
EXACT = [
    ("png", 8, "gray", "gray+alpha", "rgb", "rgb+alpha"),
    ("png", 16, "gray", "rgb", "rgb+alpha"),
    ("tiff", 8, "gray", "gray+alpha", "rgb", "rgb+alpha", "cmyk"),
    ("tiff", 16, "gray", "rgb", "rgb+alpha", "cmyk"),
    ("bmp", 8, "gray", "rgb"),
    ("webp", 8, "rgb", "rgb+alpha"),
    ("jxl", 8, "gray", "gray+alpha", "rgb", "rgb+alpha"),
]
LOSSY = [
    ("jpeg", "gray", "rgb", "cmyk"),
    ("webp", "rgb", "rgb+alpha"),
    ("avif", "rgb", "rgb+alpha"),
    ("heif", "rgb", "rgb+alpha"),
]


def noise(mode, depth):
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2**depth, (HEIGHT, WIDTH, CHANNELS[mode]))
    if "alpha" in mode:
        array[:20, :, -1] = 0
    return array.astype(np.uint8 if depth == 8 else np.uint16)


def waves(mode):
    """Smooth enough for lossy formats to come close."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / 15
    planes = [np.sin(x + phase) * np.cos(y - phase) for phase in range(CHANNELS[mode])]
    return (np.dstack(planes) * 100 + 128).astype(np.uint8)


def exif():
    block = Image.Exif()
    block[0x010F] = "Maker"
    return block.tobytes().removeprefix(b"Exif\x00\x00")


def file_of(array, fmt, mode):
    """Store samples by the libraries' own means where they can, with all metadata."""
    profile = None if mode == "cmyk" or "gray" in mode else SRGB
    if fmt == "tiff" and (array.dtype == np.uint16 or mode == "cmyk"):
        return tiff_of(array, mode, profile)
    info = ImageInfo(
        fmt,
        "gray" if "gray" in mode else "rgb",
        array.dtype.itemsize * 8,
        icc=profile,
        exif=exif(),
        xmp=XMP,
        lossless=True,
    )
    if mode == "cmyk":
        return jpeg_of(array)
    alpha = array[..., -1] if "alpha" in mode else None
    colors = array if alpha is None else array[..., :-1]
    hidden = None if alpha is None else colors[alpha == 0]
    image = DecodedImage(to_floats(colors), alpha, info, hidden)
    return encode_image(image, fmt, KEEP).data


def tiff_of(array, mode, profile):
    out = io.BytesIO()
    kinds = {"gray": "minisblack", "rgb": "rgb", "cmyk": "separated"}
    tifffile.imwrite(
        out,
        array.squeeze(),
        photometric=kinds[mode.partition("+")[0]],
        planarconfig="contig" if array.shape[2] > 1 else None,
        extrasamples=["unassalpha"] if "alpha" in mode else None,
        iccprofile=profile,
        extratags=[(271, 2, 6, b"Maker\x00", True), (700, 1, len(XMP), XMP, True)],
    )
    return out.getvalue()


def jpeg_of(inks):
    out = io.BytesIO()
    image = Image.frombytes("CMYK", (WIDTH, HEIGHT), inks.tobytes())
    image.save(out, "JPEG", quality=95, exif=b"Exif\x00\x00" + exif(), xmp=XMP)
    return out.getvalue()


def read(data):
    return decode_image(data, max_pixels=10**6)


def untouched(data, fmt="keep"):
    image = read(data)
    pixels = restore_image(IdentityRestorer(), image.pixels, Settings())
    return encode_image(replace_pixels(image, pixels), fmt, KEEP)


def stored(image):
    """Return the samples that an image's file holds, colors under transparency included."""
    if image.origin is not None:
        samples = image.origin.samples
    else:
        gray = image.info.mode == "gray"
        samples = to_integers(image.pixels, depth=image.info.depth, gray=gray)
    if image.alpha is None:
        return samples
    samples = samples.copy()
    if image.hidden is not None:
        samples[image.alpha == 0] = image.hidden
    return np.dstack([samples, image.alpha])


def metadata(image):
    info = image.info
    tags = Image.Exif()
    tags.load(b"Exif\x00\x00" + info.exif)
    return tags[0x010F], info.xmp, info.icc


CASES = [(fmt, depth, mode) for fmt, depth, *modes in EXACT for mode in modes]


@pytest.mark.parametrize("fmt, depth, mode", CASES)
def test_without_loss_everything_comes_back(fmt, depth, mode):
    pytest.importorskip(FORMATS[fmt].module or "PIL")
    array = noise(mode, depth)
    source = file_of(array, fmt, mode)
    before = read(source)
    assert np.array_equal(stored(before), array)
    encoded = untouched(source)
    after = read(encoded.data)
    assert np.array_equal(stored(after), array)
    assert (after.info.format, after.info.mode, after.info.depth) == (
        before.info.format,
        before.info.mode,
        depth,
    )
    assert encoded.warnings == after.info.warnings == ()
    if fmt != "bmp":  # it holds none
        assert metadata(after) == metadata(before)
        assert metadata(before)[:2] == ("Maker", XMP)


@pytest.mark.parametrize("fmt", ["png", "tiff"])
def test_deep_gray_with_alpha_comes_back_as_color(fmt):
    array = noise("gray+alpha", 16)
    alpha, colors = array[..., 1], array[..., :1]
    info = ImageInfo("png", "gray", 16)
    image = DecodedImage(to_floats(colors), alpha, info, colors[alpha == 0])
    after = read(encode_image(image, fmt, KEEP).data)
    assert np.array_equal(stored(after), array[..., [0, 0, 0, 1]])


@pytest.mark.parametrize("fmt, mode", [(fmt, mode) for fmt, *modes in LOSSY for mode in modes])
def test_with_loss_the_encoder_gets_what_the_decoder_gave(fmt, mode):
    pytest.importorskip(FORMATS[fmt].module or "PIL")
    source = file_of(waves(mode), fmt, mode)
    before = read(source)
    exact = read(untouched(source, "tiff").data)
    assert np.array_equal(stored(exact), stored(before))
    again = read(untouched(source).data)
    assert np.abs(stored(again).astype(int) - stored(before)).mean() < 3
    assert metadata(again) == metadata(before) == metadata(exact)
    assert (again.info.mode, again.info.warnings) == (before.info.mode, ())


def test_every_format_and_depth_is_in_a_table():
    tabled = {(fmt, depth) for fmt, depth, *_ in EXACT} | {(fmt, 8) for fmt, *_ in LOSSY}
    assert tabled == {(form.name, depth) for form in FORMATS.values() for depth in form.depths}
