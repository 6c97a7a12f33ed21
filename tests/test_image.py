"""Real files of every format, mode and depth come back as they were, or are refused by name."""

import io
import struct
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, TiffImagePlugin

from varfix.engine.errors import (
    AlphaLostError,
    DecodeEmptyError,
    DecodeTruncatedError,
    DecodeUnknownError,
    DecodeUnsupportedError,
    EncodeError,
    FormatLimitError,
    NonFiniteError,
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
from varfix.engine.image import (
    Picture,
    PictureInfo,
    encode_picture,
    has_transparency,
    probe,
    read_picture,
    replace_pixels,
    write_picture,
)
from varfix.engine.picture import fill_transparent, to_floats, to_integers
from varfix.engine.settings import OutputSettings

LIMIT = 500_000_000
KEEP = OutputSettings()
HEIGHT, WIDTH = 13, 22
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" a="b"/></x:xmpmeta>'
)


def noise(channels=3, dtype=np.uint8, seed=0):
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    high = np.iinfo(dtype).max + 1
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def smooth():
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    return np.dstack([np.tile(ramp, (48, 1)), np.tile(ramp[::-1], (48, 1)), np.full((48, 64), 90, np.uint8)])


def saved(image, fmt, **params):
    out = io.BytesIO()
    image.save(out, fmt, **params)
    return out.getvalue()


def opened(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def read(data):
    return read_picture(data, max_pixels=LIMIT)


def round_trip(data, fmt="keep", options=KEEP):
    return write_picture(read(data), fmt, options)


def png_chunk(kind, payload):
    check = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", check)


def raw_png(array, colour_type, *chunks, depth=16):
    """Write a PNG by hand: no library writes gray with alpha, or tRNS, at 16 bits."""
    height, width = array.shape[:2]
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    parts = [png_chunk(b"IHDR", header), *chunks, png_chunk(b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + png_chunk(b"IEND", b"")


def decoded_png(data):
    array = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return array if array.ndim == 2 else array[..., [2, 1, 0, 3][: array.shape[2]]]


# Identity: what a model that changes nothing must give back.


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF"])
@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("L", 1)])
def test_8_bit_pixels_come_back_exactly(fmt, mode, channels):
    array = noise(channels)
    result = opened(round_trip(saved(Image.fromarray(array), fmt)))
    assert (result.format, result.mode) == (fmt, mode)
    assert np.array_equal(np.asarray(result), array)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
@pytest.mark.parametrize("mode, channels", [("RGBA", 4), ("LA", 2)])
def test_transparency_and_the_colours_under_it_come_back_exactly(fmt, mode, channels):
    array = noise(channels)
    array[:6, :, -1] = 0
    array[6:9, :, -1] = 255
    result = opened(round_trip(saved(Image.fromarray(array, mode=None), fmt)))
    assert (result.format, result.mode) == (fmt, mode)
    assert np.array_equal(np.asarray(result), array)


def test_a_bilevel_picture_becomes_gray():
    array = noise(1) > 127
    picture = read(saved(Image.fromarray(array), "PNG"))
    assert picture.info.mode == "gray"
    result = np.asarray(opened(write_picture(picture, "keep", KEEP)))
    assert np.array_equal(result, np.where(array, 255, 0))


def test_a_palette_becomes_its_colours():
    source = Image.fromarray(noise()).quantize(16)
    result = opened(round_trip(saved(source, "PNG")))
    assert result.mode == "RGB"
    assert np.array_equal(np.asarray(result), np.asarray(source.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, bytes([0, 100, 255, 7])])
def test_a_palette_with_transparency_becomes_rgba(transparency):
    data = saved(Image.fromarray(noise()).quantize(16), "PNG", transparency=transparency)
    result = opened(round_trip(data))
    assert result.mode == "RGBA"
    assert np.array_equal(np.asarray(result), np.asarray(opened(data).convert("RGBA")))


@pytest.mark.parametrize("mode, colour", [("RGB", (1, 2, 3)), ("L", 7)])
def test_a_transparent_colour_becomes_alpha(mode, colour):
    source = Image.fromarray(noise(3 if mode == "RGB" else 1))
    source.putpixel((4, 5), colour)
    picture = read(saved(source, "PNG", transparency=colour))
    expected = np.full((HEIGHT, WIDTH), 255)
    expected[np.all(np.atleast_3d(np.asarray(source)) == colour, axis=2)] = 0
    assert expected[5, 4] == 0
    assert np.array_equal(picture.alpha, expected)


@pytest.mark.parametrize("colour_type, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_comes_back_exactly(colour_type, channels):
    array = noise(channels, np.uint16)
    picture = read(raw_png(array, colour_type))
    assert (picture.info.depth, picture.info.mode) == (16, "gray" if channels < 3 else "rgb")
    result = decoded_png(write_picture(picture, "keep", KEEP))
    assert result.dtype == np.uint16
    # Gray with alpha is stored as RGBA: no library writes it at 16 bits.
    assert np.array_equal(result, array[..., [0, 0, 0, 1]] if channels == 2 else array)


@pytest.mark.parametrize("colour_type, channels", [(0, 1), (2, 3)])
def test_a_transparent_colour_at_16_bits_becomes_alpha(colour_type, channels):
    array = noise(channels, np.uint16)
    key = np.atleast_1d(array[2, 3])
    picture = read(raw_png(array, colour_type, png_chunk(b"tRNS", key.astype(">u2").tobytes())))
    assert picture.alpha.dtype == np.uint16
    assert picture.alpha[2, 3] == 0
    assert np.count_nonzero(picture.alpha == 65535) == HEIGHT * WIDTH - 1


def test_dark_16_bit_files_are_still_16_bit():
    array = noise(3, np.uint16) % 200
    assert np.array_equal(decoded_png(round_trip(raw_png(array, 2))), array)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_16_bit_tiff_comes_back_exactly(channels, compression, planar):
    array = noise(channels, np.uint16)
    separate = planar == "separate" and channels > 1
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        np.moveaxis(array, 2, 0) if separate else array,
        photometric="minisblack" if channels == 1 else "rgb",
        planarconfig=planar if channels > 1 else None,
        extrasamples=["unassalpha"] if channels == 4 else None,
        compression=compression,
    )
    result = tifffile.imread(io.BytesIO(round_trip(out.getvalue())))
    assert result.dtype == np.uint16
    assert np.array_equal(result, array)


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_tiff_with_lzw_is_read_too(channels):
    array = noise(channels, np.uint16)
    swapped = np.ascontiguousarray(array[..., ::-1]) if channels == 3 else array
    done, data = cv2.imencode(".tiff", swapped, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert done
    assert tifffile.TiffFile(io.BytesIO(data.tobytes())).pages[0].compression == 5
    assert np.array_equal(tifffile.imread(io.BytesIO(round_trip(data.tobytes()))), array)


def test_white_is_zero_is_turned_over():
    array = noise(1, np.uint16)
    out = io.BytesIO()
    tifffile.imwrite(out, array, photometric="miniswhite")
    assert np.array_equal(tifffile.imread(io.BytesIO(round_trip(out.getvalue()))), 65535 - array)


def test_premultiplied_tiff_becomes_straight():
    array = noise(4, np.uint16)
    array[..., 3] = 32768
    array[..., :3] //= 2
    out = io.BytesIO()
    tifffile.imwrite(out, array, photometric="rgb", extrasamples=["assocalpha"])
    result = tifffile.imread(io.BytesIO(round_trip(out.getvalue())))
    assert np.array_equal(result[..., :3], np.rint(array[..., :3] * (65535 / 32768)).clip(0, 65535))


def test_lossless_webp_stays_lossless():
    array = noise(4)
    data = saved(Image.fromarray(array), "WEBP", lossless=True, exact=True)
    assert np.array_equal(np.asarray(opened(round_trip(data))), array)


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP", "AVIF"])
def test_lossy_formats_stay_close(fmt):
    result = opened(round_trip(saved(Image.fromarray(smooth()), fmt, quality=95)))
    assert (result.format, result.size) == (fmt, (64, 48))
    assert np.abs(np.asarray(result).astype(int) - smooth()).mean() < 3


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP", "AVIF"])
def test_gray_stays_gray_as_far_as_the_format_can(fmt):
    gray = smooth()[..., 0]
    result = np.asarray(opened(round_trip(saved(Image.fromarray(gray), fmt))).convert("RGB"))
    assert np.ptp(result.astype(int), axis=2).max() <= 2
    assert np.abs(result[..., 1].astype(int) - gray).mean() < 3


@pytest.mark.parametrize("fmt", ["WEBP", "AVIF"])
def test_lossy_formats_keep_alpha(fmt):
    array = np.dstack([smooth(), smooth()[..., 0]])
    picture = read(saved(Image.fromarray(array), fmt, quality=95, lossless=False))
    result = np.asarray(opened(write_picture(picture, "keep", KEEP)))
    assert np.abs(result[..., 3].astype(int) - array[..., 3]).mean() < 2


def test_jpeg_keeps_full_colour_resolution_and_quality_decides_the_size():
    picture = read(saved(Image.fromarray(noise()), "PNG"))
    good = write_picture(picture, "jpg", OutputSettings(jpeg_quality=95))
    poor = write_picture(picture, "jpg", OutputSettings(jpeg_quality=20))
    assert opened(good).layer[1][1:3] == (1, 1)
    assert opened(good).layer[0][1:3] == (1, 1)
    assert len(poor) < len(good)


def test_png_small_is_smaller_and_the_same():
    picture = read(saved(Image.fromarray(np.tile(smooth(), (8, 8, 1))), "PNG"))
    fast = write_picture(picture, "png", OutputSettings(png_level="fast"))
    small = write_picture(picture, "png", OutputSettings(png_level="small"))
    assert len(small) < len(fast)
    assert np.array_equal(np.asarray(opened(small)), np.asarray(opened(fast)))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2)])
@pytest.mark.parametrize("fmt", ["png", "tiff", "bmp"])
def test_the_smallest_pictures_come_back(size, fmt):
    array = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = saved(Image.fromarray(array), "PNG")
    assert np.array_equal(np.asarray(opened(round_trip(data, fmt))), array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_survives_as_float(dtype):
    depth = np.iinfo(dtype).bits
    values = np.arange(np.iinfo(dtype).max + 1, dtype=dtype).reshape(-1, 16)
    pixels = to_floats(values)
    assert pixels.dtype == np.float32
    assert pixels.min() == 0.0
    assert pixels.max() == 1.0
    assert np.array_equal(to_integers(pixels, depth=depth, gray=True)[..., 0], values)
    colours = to_integers(pixels, depth=depth, gray=False)
    assert np.array_equal(colours, values[..., None].repeat(3, axis=2))


@given(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=2, max_dims=2, max_side=5).map(lambda s: (*s, 3)),
        elements=st.floats(-2, 3, width=32),
    )
)
def test_floats_become_the_nearest_integer_inside_the_range(pixels):
    exact = np.clip(pixels.astype(np.float64) * 255, 0, 255)
    assert np.abs(to_integers(pixels, depth=8, gray=False) - exact).max() <= 0.5001


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_invalid_values_never_reach_a_file(bad):
    pixels = np.zeros((300, 2, 3), np.float32)
    pixels[299, 1, 2] = bad
    with pytest.raises(NonFiniteError):
        write_picture(Picture(pixels, None, PictureInfo("png")), "png", KEEP)


# Orientation.


def turned(array, orientation, fmt):
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"lossless": True, "exact": True} if fmt == "WEBP" else {}
    return saved(Image.fromarray(array), fmt, exif=exif, **lossless)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_upright_and_say_so(fmt, orientation):
    array = noise(4)
    data = turned(array, orientation, fmt)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    header = probe(data)
    assert (header.height, header.width) == upright.shape[:2]
    result = opened(round_trip(data))
    assert np.array_equal(np.asarray(result), upright)
    assert result.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("fmt", ["JPEG", "AVIF"])
def test_lossy_pictures_are_turned_upright(fmt, orientation):
    data = turned(smooth(), orientation, fmt)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    header = probe(data)
    assert (header.height, header.width) == upright.shape[:2]
    picture = read(data)
    assert np.array_equal(to_integers(picture.pixels, depth=8, gray=False), upright)
    assert opened(write_picture(picture, "keep", KEEP)).getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_deep_pictures_are_turned_upright_too(orientation):
    array = noise(3, np.uint16)
    exif = Image.Exif()
    exif[0x0112] = orientation
    block = exif.tobytes().removeprefix(b"Exif\x00\x00")
    out = io.BytesIO()
    tifffile.imwrite(out, array, photometric="rgb", extratags=[(0x0112, 3, 1, orientation, True)])
    stands = np.asarray(
        ImageOps.exif_transpose(Image.open(io.BytesIO(turned(noise(), orientation, "PNG")))),
    )
    results = [
        decoded_png(round_trip(raw_png(array, 2, png_chunk(b"eXIf", block)))),
        tifffile.imread(io.BytesIO(round_trip(out.getvalue()))),
    ]
    probed = probe(out.getvalue())
    assert (probed.height, probed.width) == stands.shape[:2]
    index = np.arange(HEIGHT * WIDTH, dtype=np.uint8 if HEIGHT * WIDTH < 256 else np.uint16)
    grid = Image.fromarray(index.reshape(HEIGHT, WIDTH).astype(np.int32))
    grid.getexif()[0x0112] = orientation
    order = np.asarray(ImageOps.exif_transpose(grid))
    for result in results:
        assert np.array_equal(result, array.reshape(-1, 3)[order])


# Metadata.


def camera_exif(orientation=6):
    exif = Image.Exif()
    exif[0x010F] = "Maker"
    exif[0x0112] = orientation
    exif[0x0132] = "2026:01:02 03:04:05"
    inner = exif.get_ifd(0x8769)
    inner[0x9003] = "2026:01:02 03:04:05"
    inner[0xA002], inner[0xA003] = 64, 48
    inner[0x927C] = b"maker note"
    inner[0x829D] = TiffImagePlugin.IFDRational(28, 10)
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (10.0, 20.0, 30.0)
    return exif


def with_thumbnail(exif):
    """Link a second directory with an embedded JPEG behind an EXIF block, as cameras do."""
    block = bytearray(exif.tobytes().removeprefix(b"Exif\x00\x00"))
    order = "<" if block[:2] == b"II" else ">"
    first = struct.unpack_from(f"{order}I", block, 4)[0]
    link = first + 2 + 12 * struct.unpack_from(f"{order}H", block, first)[0]
    struct.pack_into(f"{order}I", block, link, len(block))
    thumbnail = saved(Image.fromarray(smooth()), "JPEG")
    at = len(block) + 2 + 24 + 4
    entries = struct.pack(f"{order}HHHIIHHII", 2, 0x201, 4, 1, at, 0x202, 4, 1, len(thumbnail))
    return bytes(block) + entries + bytes(4) + thumbnail


@pytest.mark.parametrize("target", ["jpeg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_metadata_survives_between_all_formats(source, target):
    image = Image.fromarray(smooth())
    params = {"exif": camera_exif(), "icc_profile": SRGB}
    if source in ("JPEG", "WEBP", "AVIF"):
        params["xmp"] = XMP
    encoded = encode_picture(read(saved(image, source, **params)), target, KEEP)
    assert encoded.warnings == ()
    result = opened(encoded.data)
    exif = result.getexif()
    inner = exif.get_ifd(0x8769)
    assert result.size == (48, 64)
    assert result.info["icc_profile"] == SRGB
    assert exif[0x010F] == "Maker"
    assert exif.get(0x0112, 1) == 1
    assert inner[0x9003] == "2026:01:02 03:04:05"
    assert inner[0x927C] == b"maker note"
    assert float(inner[0x829D]) == 2.8
    assert (inner[0xA002], inner[0xA003]) == (48, 64)
    assert exif.get_ifd(0x8825)[1] == "N"
    assert tuple(map(float, exif.get_ifd(0x8825)[2])) == (10.0, 20.0, 30.0)
    if "xmp" in params:
        assert result.info["xmp"] == XMP.replace(b'Orientation="6"', b'Orientation="1"')


@pytest.mark.parametrize("channels, dtype", [(3, np.uint16), (1, np.uint8), (4, np.uint8)])
def test_tiff_of_any_depth_keeps_metadata(channels, dtype):
    picture = read(saved(Image.fromarray(noise()), "PNG", exif=camera_exif(1), icc_profile=SRGB))
    samples = np.atleast_3d(noise(channels, dtype))
    info = replace(
        picture.info,
        depth=np.iinfo(dtype).bits,
        mode="gray" if channels == 1 else "rgb",
        xmp=XMP,
        dpi=(300.0, 150.0),
    )
    alpha = samples[..., 3] if channels == 4 else None
    data = write_picture(Picture(to_floats(samples[..., :3]), alpha, info), "tiff", KEEP)
    again = read(data)
    assert again.info.icc == SRGB
    assert again.info.dpi == (300.0, 150.0)
    assert opened(data).getexif().get_ifd(0x8769)[0x927C] == b"maker note"
    assert np.array_equal(
        to_integers(again.pixels, depth=info.depth, gray=channels == 1), samples[..., :3]
    )


def test_the_stale_thumbnail_is_gone_with_its_bytes():
    block = with_thumbnail(camera_exif())
    data = saved(Image.fromarray(smooth()), "JPEG", exif=b"Exif\x00\x00" + block)
    assert opened(data).getexif().get_ifd(1)
    result = opened(round_trip(data))
    kept = result.info["exif"]
    assert result.getexif().get_ifd(1) == {}
    assert b"\xff\xd8\xff" not in kept
    assert len(kept) < len(block)
    assert result.getexif().get_ifd(0x8769)[0x927C] == b"maker note"


def test_resolution_follows_the_turn():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(smooth()), "JPEG", exif=exif, dpi=(300, 150))
    for fmt in ("jpeg", "png", "tiff", "bmp"):
        assert opened(round_trip(data, fmt)).info["dpi"] == pytest.approx((150, 300), abs=0.1)


def test_png_text_and_gamma_survive():
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "hello")
    text.add_itxt("Title", "Grüße", lang="de")
    text.add(b"gAMA", struct.pack(">I", 45455))
    data = saved(Image.fromarray(noise()), "PNG", pnginfo=text, dpi=(300, 300))
    result = opened(round_trip(data))
    assert result.text == {"Comment": "hello", "Title": "Grüße"}
    assert result.info["gamma"] == pytest.approx(0.45455)
    assert result.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("fmt", ["jpeg", "png", "webp", "tiff", "avif"])
def test_metadata_policies(fmt):
    source = saved(
        Image.fromarray(smooth()), "JPEG", exif=camera_exif(1), icc_profile=SRGB, xmp=XMP
    )
    safe = opened(round_trip(source, fmt, OutputSettings(metadata="safe")))
    none = opened(round_trip(source, fmt, OutputSettings(metadata="none")))
    assert safe.info["icc_profile"] == SRGB
    assert "icc_profile" not in none.info
    for result in (safe, none):
        assert "xmp" not in result.info
        assert 0x010F not in result.getexif()


def test_metadata_that_does_not_fit_is_a_warning_and_the_profile_stays():
    picture = read(saved(Image.fromarray(smooth()), "PNG", icc_profile=SRGB))
    picture = replace(picture, info=replace(picture.info, xmp=b"x" * 70_000))
    encoded = encode_picture(picture, "jpeg", KEEP)
    assert [w.partition(":")[0] for w in encoded.warnings] == ["metadata was not kept"]
    assert opened(encoded.data).info["icc_profile"] == SRGB


def test_damaged_exif_is_a_warning():
    exif = b"Exif\x00\x00II*\x00\xff\xff\x00\x00"
    picture = read(saved(Image.fromarray(smooth()), "JPEG", exif=exif))
    assert picture.info.exif is None
    assert "EXIF" in picture.info.warnings[0]


def test_a_profile_that_bmp_cannot_hold_is_a_warning():
    data = saved(Image.fromarray(smooth()), "PNG", icc_profile=SRGB)
    assert "colour profile" in encode_picture(read(data), "bmp", KEEP).warnings[0]


def test_depth_that_jpeg_cannot_hold_is_a_warning():
    array = noise(3, np.uint16)
    picture = read(raw_png(array, 2))
    encoded = encode_picture(picture, "bmp", KEEP)
    assert "16-bit" in encoded.warnings[0]
    assert np.array_equal(np.asarray(opened(encoded.data)), np.rint(array / 257).astype(np.uint8))


# Transparency.


def cutout():
    array = np.full((HEIGHT, WIDTH, 4), (200, 100, 50, 255), np.uint8)
    array[:, WIDTH // 2 :] = (0, 0, 0, 0)
    return array


def test_the_model_sees_neighbouring_colours_under_transparency():
    picture = read(saved(Image.fromarray(cutout()), "PNG"))
    seen = to_integers(picture.pixels, depth=8, gray=False)
    assert np.array_equal(seen, np.broadcast_to((200, 100, 50), seen.shape))
    assert np.array_equal(picture.alpha, cutout()[..., 3])


def test_restored_colours_stay_out_of_transparent_pixels():
    picture = read(saved(Image.fromarray(cutout()), "PNG"))
    changed = replace_pixels(picture, np.zeros_like(picture.pixels) + np.float32(0.2))
    result = np.asarray(opened(write_picture(changed, "png", KEEP)))
    assert np.array_equal(result[:, : WIDTH // 2, :3], np.full((HEIGHT, WIDTH // 2, 3), 51))
    assert np.array_equal(result[:, WIDTH // 2 :], cutout()[:, WIDTH // 2 :])


@given(
    npst.arrays(np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=17), fill=st.just(0))
)
def test_filling_touches_only_transparent_pixels(alpha):
    samples = np.random.default_rng(0).integers(0, 256, (*alpha.shape, 3), dtype=np.uint8)
    filled = fill_transparent(samples, alpha)
    visible = alpha != 0
    assert np.array_equal(filled[visible], samples[visible])
    if visible.any():
        assert filled.max() <= samples[visible].max() or visible.all()
        assert filled.min() >= samples[visible].min() or visible.all()


def test_transparency_is_refused_by_jpeg_unless_a_colour_goes_under_it():
    picture = read(saved(Image.fromarray(cutout()), "PNG"))
    with pytest.raises(EncodeError, match="transparency"):
        write_picture(picture, "jpg", KEEP)
    result = opened(write_picture(picture, "bmp", OutputSettings(flatten="white")))
    assert result.getpixel((WIDTH - 1, 0)) == (255, 255, 255)
    assert result.getpixel((0, 0)) == (200, 100, 50)
    with pytest.raises(EncodeError, match="not a colour"):
        write_picture(picture, "bmp", OutputSettings(flatten="whitish"))


def test_half_transparency_is_blended_with_the_colour():
    array = np.full((4, 4, 2), (100, 51), np.uint8)
    picture = read(saved(Image.fromarray(array), "PNG"))
    gray = opened(write_picture(picture, "bmp", OutputSettings(flatten="white")))
    assert (gray.mode, gray.getpixel((0, 0))) == ("L", 224)
    red = opened(write_picture(picture, "bmp", OutputSettings(flatten="#ff0000")))
    assert red.getpixel((0, 0)) == (224, 20, 20)


@pytest.mark.parametrize("alpha, hides", [(255, False), (254, True)])
def test_opaque_alpha_is_dropped_without_complaint(alpha, hides):
    array = np.full((4, 4, 4), 255, np.uint8)
    array[0, 0, 3] = alpha
    data = saved(Image.fromarray(array), "PNG")
    assert has_transparency(data, max_pixels=LIMIT) is hides
    if not hides:
        assert opened(round_trip(data, "jpg")).mode == "RGB"


# Refusals.


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
        (b"\x00\x00\x00\x18ftypheic\x00\x00", "image/heic"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path, data, what):
    path = tmp_path / "notes.png"
    path.write_bytes(data)
    for call in (lambda: read(data), lambda: probe(data), lambda: probe(path)):
        with pytest.raises(DecodeUnknownError) as caught:
            call()
        assert caught.value.message == f"not an image varfix can read ({what})"
        assert "PNG" in caught.value.hint


def test_gif_is_named():
    with pytest.raises(DecodeUnknownError, match="image/gif"):
        read(saved(Image.fromarray(noise(1)), "GIF"))


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
        "png16": raw_png(deep, 2),
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
    with pytest.raises(DecodeTruncatedError, match="Not restored, so that a gray band"):
        read(short)


@pytest.mark.parametrize("kind", ["jpeg", "progressive"])
@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_a_jpeg_padded_with_zeros_is_refused(kind, part):
    data = SAMPLES[kind]
    keep = int(len(data) * part)
    with pytest.raises(DecodeTruncatedError, match="file ends early"):
        read(data[:keep] + bytes(len(data) - keep))


def test_a_thumbnail_does_not_pass_for_the_end_of_the_picture():
    block = b"Exif\x00\x00" + with_thumbnail(camera_exif())
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


def test_a_decompression_bomb_is_refused_from_its_header():
    rows = zlib.compress(bytes(1 + 5000) * 40000, 9)
    header = struct.pack(">IIBBBBB", 40000, 40000, 1, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows)
    with pytest.raises(DecodeUnsupportedError, match="1600 megapixels, over the limit of 500") as e:
        read(bomb + png_chunk(b"IEND", b""))
    assert "limits.max_pixels" in e.value.hint


def test_the_pixel_limit_is_inclusive():
    data = saved(Image.fromarray(noise()), "PNG")
    assert read_picture(data, max_pixels=HEIGHT * WIDTH)
    with pytest.raises(DecodeUnsupportedError):
        read_picture(data, max_pixels=HEIGHT * WIDTH - 1)


def test_pictures_above_pillows_own_limit_are_read_without_a_warning():
    header = struct.pack(">IIBBBBB", 20000, 10000, 1, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    head = probe(start + png_chunk(b"IDAT", b"x"))
    assert (head.width, head.height) == (20000, 10000)


@pytest.mark.parametrize("fmt", ["JPEG", "TIFF"])
def test_cmyk_is_refused_with_a_hint(fmt):
    with pytest.raises(DecodeUnsupportedError, match="CMYK") as caught:
        read(saved(Image.fromarray(noise()).convert("CMYK"), fmt))
    assert "RGB" in caught.value.hint


@pytest.mark.parametrize("fmt, what", [("PNG", "frames"), ("WEBP", "frames"), ("TIFF", "pages")])
def test_several_pictures_in_a_file_are_refused(fmt, what):
    frames = [Image.fromarray(noise(seed=seed)) for seed in range(3)]
    data = saved(frames[0], fmt, save_all=True, append_images=frames[1:])
    for call in (read, probe):
        with pytest.raises(DecodeUnsupportedError, match=f"has 3 {what}"):
            call(data)


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


def test_a_phones_several_picture_jpeg_is_read_as_its_first():
    frames = [Image.fromarray(smooth()), Image.fromarray(smooth()[::2, ::2])]
    data = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    picture = read(data)
    assert (picture.info.format, picture.pixels.shape) == ("jpeg", (48, 64, 3))


# Planning.


@pytest.mark.parametrize("kind", SAMPLES)
def test_probe_agrees_with_reading(tmp_path, kind):
    path = tmp_path / "picture"
    path.write_bytes(SAMPLES[kind])
    picture = read(SAMPLES[kind])
    header = Header(picture.info.format, 120, 90, False, picture.info.depth)
    assert probe(SAMPLES[kind]) == probe(path) == header


@pytest.mark.parametrize("channels", [2, 4])
def test_probe_sees_alpha(channels):
    assert probe(saved(Image.fromarray(noise(channels)), "PNG")).has_alpha


def test_probe_of_a_missing_file_is_a_read_error(tmp_path):
    with pytest.raises(SourceReadError, match="No such file"):
        probe(tmp_path / "no.png")


def test_limits_of_formats_are_checked_before_any_work():
    wide = Header("png", 24000, 10, False, 8)
    text = "pano.jpg → WebP: 24000 px is over WebP's 16383 px. Use --format tiff."
    with pytest.raises(FormatLimitError) as caught:
        check_output("pano.jpg", wide, "webp", None)
    assert caught.value.message == text
    check_output("pano.jpg", wide, "keep", None)


def test_lost_alpha_is_refused_before_any_work():
    header = Header("png", 10, 10, True, 8)
    text = (
        "logo.png has transparency, JPEG cannot hold it. "
        "Use --format png, or --set output.flatten=white."
    )
    with pytest.raises(AlphaLostError) as caught:
        check_output("logo.png", header, "jpg", None)
    assert caught.value.message == text
    check_output("logo.png", header, "jpg", "white")
    check_output("logo.png", header, "keep", None)


@pytest.mark.parametrize("fmt", ["jpeg", "webp", "avif"])
def test_the_stated_limits_are_the_encoders(fmt):
    picture = Picture(
        np.zeros((1, FORMATS[fmt].max_side + 1, 3), np.float32), None, PictureInfo(fmt)
    )
    with pytest.raises(EncodeError):
        write_picture(picture, fmt, KEEP)


def test_names_and_formats_find_each_other():
    assert format_of("a/B.JPEG") == format_of("x.jpg") == canonical("JPG") == "jpeg"
    assert format_of("notes.txt") is None
    assert all(EXTENSIONS[extension_of(name)] == name for name in FORMATS)


def test_pixels_of_another_size_are_refused():
    picture = read(saved(Image.fromarray(noise()), "PNG"))
    with pytest.raises(ValueError, match="expected pixels"):
        replace_pixels(picture, picture.pixels[1:])
