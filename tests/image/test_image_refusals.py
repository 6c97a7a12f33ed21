"""Bad, foreign and oversized files are refused by name, before they cost anything."""

import io
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from support.images import opened, saved, smooth

from varfix.engine.errors import (
    AlphaLostError,
    DecodeEmptyError,
    DecodeTruncatedError,
    DecodeUnknownError,
    DecodeUnsupportedError,
    EncodeError,
    FormatLimitError,
    SourceReadError,
)
from varfix.engine.formats import (
    EXTENSIONS,
    FORMATS,
    Header,
    canonical,
    check_output,
    extension_of,
    format_of,
)
from varfix.engine.image.decoded_image import DecodedImage, ImageInfo, replace_pixels
from varfix.engine.image.header import probe
from varfix.engine.image.reader import decode_image
from varfix.engine.image.writer import encode_image_bytes
from varfix.engine.settings.types import OutputSettings

KEEP = OutputSettings()


def noise(channels=3, dtype=np.uint8, seed=0):
    shape = (13, 22, channels) if channels > 1 else (13, 22)
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def read(data):
    return decode_image(data, max_pixels=500_000_000)


def round_trip(data, fmt="keep", options=KEEP):
    return encode_image_bytes(read(data), fmt, options)


def test_an_empty_file_is_refused():
    with pytest.raises(DecodeEmptyError, match=r"^empty file \(0 bytes\)$"):
        read(b"")


@pytest.mark.parametrize(
    "data, what",
    [
        (b"just some words\n", "text/plain"),
        ("Grüße".encode() * 1000, "text/plain"),
        (b"BMW is a car\n", "text/plain"),
        (b"\x00\x01\x02\x03" * 9, "application/octet-stream"),
        (b"%PDF-1.7\n", "application/pdf"),
        (b"\x00\x00\x00\x18ftypisom\x00\x00", "video/mp4"),
    ],
)
def test_files_that_are_no_images_are_named(tmp_path, data, what):
    path = tmp_path / "notes.png"
    path.write_bytes(data)
    for call in (lambda: read(data), lambda: probe(data), lambda: probe(path)):
        with pytest.raises(DecodeUnknownError) as caught:
            call()
        assert caught.value.message == f"not an image varfix can read ({what})"
        assert "PNG" in caught.value.hint


def test_gif_is_named():
    with pytest.raises(DecodeUnknownError, match="image/gif") as caught:
        read(saved(Image.fromarray(noise(1)), "GIF"))
    assert "run 'varfix video' for an animation" in caught.value.hint


def encoded_samples():
    gentle = cv2.GaussianBlur(np.random.default_rng(3).random((90, 120, 3)), (0, 0), 2)
    image = Image.fromarray((gentle * 255).astype(np.uint8))
    deep = (gentle * 65535).astype(np.uint16)
    tiff16, zip16 = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(tiff16, deep, photometric="rgb")
    tifffile.imwrite(zip16, deep, photometric="rgb", compression="zlib")
    return {
        "jpeg": saved(image, "JPEG"),
        "progressive": saved(image, "JPEG", progressive=True),
        "png": saved(image, "PNG"),
        "png16": cv2.imencode(".png", deep)[1].tobytes(),
        "bmp": saved(image, "BMP"),
        "webp": saved(image, "WEBP"),
        "webp lossless": saved(image, "WEBP", lossless=True),
        "avif": saved(image, "AVIF"),
        "tiff": saved(image, "TIFF"),
        "tiff lzw": saved(image, "TIFF", compression="tiff_lzw"),
        "tiff16": tiff16.getvalue(),
        "tiff16 zip": zip16.getvalue(),
        "lzw16": cv2.imencode(".tiff", deep)[1].tobytes(),
    }


SAMPLES = encoded_samples()


@pytest.mark.parametrize("kind", SAMPLES)
def test_whole_files_are_read(kind):
    assert read(SAMPLES[kind]).pixels.shape == (90, 120, 3)


@pytest.mark.parametrize("kind", SAMPLES)
@pytest.mark.parametrize("part", [0.02, 0.1, 0.3, 0.5, 0.9, 0.98])
def test_truncated_files_are_refused(kind, part):
    data = SAMPLES[kind]
    short = data[: max(16, int(len(data) * part))]
    with pytest.raises(DecodeTruncatedError, match="not restored: the missing part would be gray"):
        read(short)


@pytest.mark.parametrize("kind", ["jpeg", "progressive"])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_a_jpeg_padded_with_zeros_is_refused(kind, part):
    data = SAMPLES[kind]
    keep = int(len(data) * part)
    with pytest.raises(DecodeTruncatedError, match="file ends early"):
        read(data[:keep] + bytes(len(data) - keep))


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image():
    thumbnail = saved(Image.fromarray(smooth()), "JPEG")
    block = b"Exif\x00\x00" + thumbnail
    data = saved(Image.fromarray(smooth()), "JPEG", exif=block)
    assert read(data)
    with pytest.raises(DecodeTruncatedError):
        read(data[:-60] + bytes(60))


def test_a_flipped_bit_in_a_png_is_refused():
    data = bytearray(SAMPLES["png"])
    data[len(data) // 2] ^= 0x10
    with pytest.raises(DecodeTruncatedError, match="damaged"):
        read(bytes(data))


@pytest.mark.parametrize("kind", SAMPLES)
def test_garbage_behind_a_signature_is_refused(kind):
    garbage = np.random.default_rng(0).bytes(400)
    with pytest.raises((DecodeTruncatedError, DecodeUnsupportedError)):
        read(SAMPLES[kind][:18] + garbage)


def bilevel_png(width, height):
    def chunk(kind, payload):
        check = zlib.crc32(kind + payload)
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", check)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(bytes(1 + width // 8) * height, 9))
    return b"\x89PNG\r\n\x1a\n" + header + rows + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_from_its_header():
    bomb = bilevel_png(40000, 40000)
    assert len(bomb) < 300_000
    with pytest.raises(DecodeUnsupportedError, match="1600 megapixels, over the limit of 500") as e:
        read(bomb)
    assert "limits.max_pixels" in e.value.hint


def test_the_pixel_limit_is_inclusive():
    data = saved(Image.fromarray(noise()), "PNG")
    assert decode_image(data, max_pixels=13 * 22)
    with pytest.raises(DecodeUnsupportedError):
        decode_image(data, max_pixels=13 * 22 - 1)


def test_images_above_pillows_own_limit_are_read_without_a_warning():
    head = probe(bilevel_png(20000, 10000))
    assert (head.width, head.height) == (20000, 10000)


def test_inks_beyond_cmyk_are_refused_with_a_hint():
    out = io.BytesIO()
    tifffile.imwrite(out, noise(5), photometric="separated", extrasamples=["unspecified"])
    with pytest.raises(DecodeUnsupportedError, match="CMYK with") as caught:
        read(out.getvalue())
    assert "RGB" in caught.value.hint


def test_lab_is_refused_with_a_hint():
    with pytest.raises(DecodeUnsupportedError, match="LAB") as caught:
        read(saved(Image.new("LAB", (8, 8)), "TIFF"))
    assert "RGB" in caught.value.hint


@pytest.mark.parametrize(
    "marker, depth, what",
    [
        (0xC0, 12, "12-bit"),
        (0xC1, 12, "12-bit"),
        (0xC3, 8, "lossless"),
        (0xC5, 8, "hierarchical"),
        (0xCB, 8, "lossless arithmetic-coded"),
    ],
)
def test_jpegs_of_odd_coding_are_named(marker, depth, what):
    data = bytearray(SAMPLES["jpeg"])
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, depth
    for call in (read, probe):
        with pytest.raises(DecodeUnsupportedError, match=rf"unsupported JPEG \({what}\)") as caught:
            call(bytes(data))
        assert "8-bit JPEG" in caught.value.hint


def test_an_arithmetic_coded_jpeg_is_read():
    # Without a bit of data every coefficient is the decoder's first guess: zero.
    data = bytearray(SAMPLES["jpeg"])
    data[data.index(b"\xff\xc0") + 1] = 0xC9
    scan = data.index(b"\xff\xda")
    data[scan + 2 + data[scan + 3] :] = b"\xff\xd9"
    assert read(bytes(data)).pixels.shape == (90, 120, 3)


@pytest.mark.parametrize("fmt, what", [("PNG", "frames"), ("WEBP", "frames"), ("TIFF", "pages")])
def test_several_images_in_a_file_are_refused(fmt, what):
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    data = saved(frames[0], fmt, save_all=True, append_images=frames[1:])
    for call in (read, probe):
        with pytest.raises(DecodeUnsupportedError, match=f"has 3 {what}") as caught:
            call(data)
        wanted = f"extract the {what}, for example with `(ffmpeg|tiffsplit)"
        wanted = "run 'varfix video'" if fmt == "WEBP" else wanted
        assert re.match(wanted, caught.value.hint)


def test_a_small_copy_inside_a_tiff_is_not_a_page():
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(noise(), photometric="rgb")
        writer.write(noise()[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(np.asarray(opened(round_trip(out.getvalue()))), noise())


@pytest.mark.parametrize("dtype", [np.float32, np.uint32])
@pytest.mark.parametrize("channels", [1, 3])
def test_deeper_tiff_is_refused_with_a_hint(dtype, channels):
    out = io.BytesIO()
    shape = (8, 8, 3) if channels == 3 else (8, 8)
    tifffile.imwrite(out, np.zeros(shape, dtype), photometric="rgb" if channels == 3 else None)
    with pytest.raises(DecodeUnsupportedError) as caught:
        read(out.getvalue())
    assert caught.value.hint


def test_a_phones_several_image_jpeg_is_read_as_its_first():
    frames = [Image.fromarray(smooth()), Image.fromarray(smooth()[::2, ::2])]
    data = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    image = read(data)
    assert (image.info.format, image.pixels.shape) == ("jpeg", (48, 64, 3))


# Planning.


@pytest.mark.parametrize("kind", SAMPLES)
def test_probe_agrees_with_reading(tmp_path, kind):
    path = tmp_path / "picture"
    path.write_bytes(SAMPLES[kind])
    image = read(SAMPLES[kind])
    header = Header(image.info.format, 120, 90, False, image.info.depth)
    assert probe(SAMPLES[kind]) == probe(path) == header


@pytest.mark.parametrize("channels", [2, 4])
def test_probe_sees_alpha(channels):
    assert probe(saved(Image.fromarray(noise(channels)), "PNG")).has_alpha


def test_probe_of_a_missing_file_is_a_read_error(tmp_path):
    with pytest.raises(SourceReadError, match="no such file"):
        probe(tmp_path / "no.png")


def test_limits_of_formats_are_checked_before_any_work():
    wide = Header("png", 24000, 10, False, 8)
    text = "pano.jpg → WebP: 24000 px is over WebP's 16383 px"
    with pytest.raises(FormatLimitError) as caught:
        check_output("pano.jpg", wide, "webp", None)
    assert caught.value.message == text
    assert caught.value.hint == "use --format tiff"
    check_output("pano.jpg", wide, "keep", None)


def test_lost_alpha_is_refused_before_any_work():
    header = Header("png", 10, 10, True, 8)
    text = "logo.png has transparency, JPEG cannot store it"
    with pytest.raises(AlphaLostError) as caught:
        check_output("logo.png", header, "jpg", None)
    assert caught.value.message == text
    assert caught.value.hint == "use --format png, or --set output.flatten=white"
    check_output("logo.png", header, "jpg", "white")
    check_output("logo.png", header, "keep", None)


@pytest.mark.parametrize("fmt", ["jpeg", "webp", "avif"])
def test_the_stated_limits_are_the_encoders(fmt):
    image = DecodedImage(
        np.zeros((1, FORMATS[fmt].max_side + 1, 3), np.float32), None, ImageInfo(fmt)
    )
    with pytest.raises(EncodeError):
        encode_image_bytes(image, fmt, KEEP)


def test_names_and_formats_find_each_other():
    assert format_of("a/B.JPEG") == format_of("x.jpg") == canonical("JPG") == "jpeg"
    assert format_of("notes.txt") is None
    assert all(EXTENSIONS[extension_of(name)] == name for name in FORMATS)


def test_pixels_of_another_size_are_refused():
    image = read(saved(Image.fromarray(noise()), "PNG"))
    with pytest.raises(ValueError, match="expected pixels"):
        replace_pixels(image, image.pixels[1:])
