"""Whatever is done to a file's bytes, reading it ends soon in an image or in one of our errors.

`VARFIX_FUZZ=20000 pytest tests/image/test_fuzz_readers.py` looks for longer.
"""

import io
import os
import struct
import time
import warnings

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from support.images import saved

from varfix.engine.errors import VarfixError
from varfix.engine.formats import FORMATS
from varfix.engine.image import jpeg, png
from varfix.engine.image.decoded_image import DecodedImage
from varfix.engine.image.header import probe
from varfix.engine.image.metadata import iptc
from varfix.engine.image.reader import decode_image
from varfix.engine.image.writer import encode_image_bytes
from varfix.engine.settings.types import OutputSettings

EXAMPLES = int(os.environ.get("VARFIX_FUZZ", "40"))
MOST_PIXELS = 1_000_000
SECONDS = 5.0
# What length fields and counts are set to.
EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def deep_tiff(pixels, **params):
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **params)
    return out.getvalue()


def originals():
    rng = np.random.default_rng(3)
    image = Image.fromarray(rng.integers(0, 256, (9, 14, 3), np.uint8))
    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(rng.integers(0, 256, (9, 14), np.uint8)))
    deep = rng.integers(0, 65536, (9, 14, 3), np.uint16)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x9003] = 6, "an image", "2026:01:01 00:00:00"
    exif.get_ifd(0x8825)[1] = "N"
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "words")
    text.add_text("Comment", "more words", zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    about = {"exif": exif.tobytes(), "icc_profile": bytes(200)}
    return {
        "jpeg": saved(image, "JPEG", **about),
        "jpeg progressive": saved(image, "JPEG", progressive=True),
        "jpeg gray": saved(image.convert("L"), "JPEG"),
        "jpeg cmyk": saved(image.convert("CMYK"), "JPEG"),
        "png": saved(image, "PNG", pnginfo=text, **about),
        "png palette": saved(image.quantize(16), "PNG", transparency=3),
        "png gray alpha": saved(clear.convert("LA"), "PNG"),
        "png 16": cv2.imencode(".png", deep)[1].tobytes(),
        "webp": saved(image, "WEBP", **about),
        "webp lossless alpha": saved(clear, "WEBP", lossless=True),
        "tiff": saved(image, "TIFF", exif=exif, icc_profile=bytes(200)),
        "tiff lzw": saved(clear, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": saved(image, "TIFF", compression="jpeg"),
        "tiff 16": deep_tiff(deep, photometric="rgb"),
        "tiff 16 deflate": deep_tiff(deep, photometric="rgb", compression="zlib"),
        "tiff 16 tiles": deep_tiff(deep, photometric="rgb", tile=(16, 16)),
        "bigtiff": deep_tiff(deep, photometric="rgb", bigtiff=True),
        "bmp": saved(image, "BMP"),
        "bmp palette": saved(image.quantize(16), "BMP"),
        "avif": saved(image, "AVIF", **about),
        "avif alpha": saved(clear, "AVIF"),
        "gif": saved(image.quantize(16), "GIF"),
        "jpeg with everything": with_everything(image, about),
        "png with colors": png.insert(saved(image, "PNG"), STATED),
        "tiff 16 lzw": cv2.imencode(".tiff", deep)[1].tobytes(),
        "tiff 16 planes": deep_tiff(np.moveaxis(deep, 2, 0), photometric="rgb", planarconfig=2),
        "tiff preview first": preview_first(np.asarray(image)),
        "tiff extra channel": deep_tiff(
            np.dstack([deep, deep[..., :1]]), photometric="rgb", extrasamples=["unspecified"]
        ),
        "bmp alpha": cv2.imencode(".bmp", np.asarray(clear))[1].tobytes(),
        **by_extra(image, clear, about),
    }


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
    b' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
    b' xmlns:C="http://ns.google.com/photos/1.0/camera/" C:MotionPhoto="1"%s/></rdf:RDF>'
    b"</x:xmpmeta>"
)
EXTENDED = b"0123456789ABCDEF" * 2
STATED = [
    (b"gAMA", struct.pack(">I", 100_000)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
    (b"cICP", bytes((12, 13, 0, 1))),
]


def with_everything(image, about):
    """Write a JPEG with every block that is read: XMP in two parts, resources, comments."""
    reference = b' xmlns:n="http://ns.adobe.com/xmp/note/" n:HasExtendedXMP="' + EXTENDED + b'"'
    data = saved(image, "JPEG", xmp=XMP % reference, restart_marker_rows=1, **about)
    path = b"8BIM" + struct.pack(">H", 2000) + bytes(2) + struct.pack(">I", 26) + bytes(26)
    segments = jpeg.extended_xmp(EXTENDED, XMP % b"")
    segments += jpeg.resources(iptc.resources(b"\x1c\x02\x78\x00\x05hello") + path)
    return jpeg.insert(data, [*segments, *jpeg.comment("wörds".encode())]) + b"more" * 20


def preview_first(pixels):
    out = io.BytesIO()
    tags = [(33922, 12, 6, (0.0,) * 6, True), (40091, 1, 4, b"a\x00\x00\x00", True)]
    with tifffile.TiffWriter(out) as writer:
        writer.write(pixels[::2, ::2], photometric="rgb", subfiletype=1, extratags=tags)
        writer.write(pixels, photometric="rgb")
    return out.getvalue()


def by_extra(image, clear, about):
    """Files of the formats that need a package of their own, where it is installed."""
    files = {}
    if FORMATS["heif"].available:
        import pillow_heif

        for kind, pixels, facts in (("heif", image, about), ("heif alpha", clear, {})):
            out = io.BytesIO()
            pillow_heif.from_pillow(pixels).save(out, quality=90, **facts)
            files[kind] = out.getvalue()
    if FORMATS["jxl"].available:
        import pillow_jxl.JpegXLImagePlugin  # noqa: F401 (teaches Pillow the format)

        files["jxl"] = saved(image, "JXL", lossless=True, **about)
        files["jxl lossy alpha"] = saved(clear, "JXL", quality=80)
    return files


ORIGINALS = originals()


def overwritten(data, at, replacement):
    """The same length, other bytes; headers, which come first, are hit as often as the rest."""
    return data[:at] + replacement + data[at + len(replacement) :]


@st.composite
def places(draw, data):
    """An offset: half of the time among the first 200 bytes."""
    end = max(1, len(data))
    return draw(st.one_of(st.integers(0, min(200, end) - 1), st.integers(0, end - 1)))


@st.composite
def damaged(draw, data):
    """A valid file after a few strokes of bad luck or bad will."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(places(data))
        stroke = draw(st.sampled_from(("byte", "extreme", "cut", "repeat", "splice", "blank")))
        if stroke == "byte":
            data = overwritten(data, at, bytes([draw(st.integers(0, 255))]))
        elif stroke == "extreme":
            size = draw(st.sampled_from((1, 2, 4, 8)))
            order = draw(st.sampled_from(("big", "little")))
            value = draw(st.sampled_from(EXTREMES)) % (1 << (8 * size))
            data = overwritten(data, at, value.to_bytes(size, order))
        elif stroke == "cut":
            data = data[:at]
        elif stroke == "repeat":
            data = data[:at] + data[max(0, at - 40) :]
        elif stroke == "splice":
            other = ORIGINALS[draw(st.sampled_from(sorted(ORIGINALS)))]
            data = data[:at] + other[draw(places(other)) :]
        else:
            data = overwritten(data, at, bytes(min(30, len(data) - at)))
    return data


def outcome(work):
    """What an action returns, or the error that users see; anything else escapes."""
    start = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries mutter about damage
            return work()
    except VarfixError as error:
        assert error.message
        return None
    finally:
        assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("kind", ORIGINALS)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 40,  # the same every day; the long run is another each time
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(data=st.data())
def test_a_damaged_file_gives_an_image_or_a_defined_error(kind, data):
    file = data.draw(damaged(ORIGINALS[kind]))
    header = outcome(lambda: probe(file))
    image = outcome(lambda: decode_image(file, max_pixels=MOST_PIXELS))
    if image is None:
        return
    assert isinstance(image, DecodedImage)
    assert header is not None  # what can be read can be planned
    height, width, _ = image.pixels.shape
    assert (width, height) == (header.width, header.height)
    assert width * height <= MOST_PIXELS
    assert np.isfinite(image.pixels).all()
    for fmt in ("keep", "png", "tiff", "jpeg"):
        outcome(lambda fmt=fmt: encode_image_bytes(image, fmt, OutputSettings()))


@pytest.mark.parametrize("kind", [kind for kind in ORIGINALS if kind not in ("gif", "jpeg cmyk")])
def test_the_originals_are_read(kind):
    assert decode_image(ORIGINALS[kind], max_pixels=MOST_PIXELS).pixels.size
