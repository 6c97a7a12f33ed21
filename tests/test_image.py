"""Real files of every format, mode and depth come back as they were."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image, ImageOps

from varfix.engine.errors import (
    EncodeError,
    NonFiniteError,
)
from varfix.engine.image import (
    Picture,
    PictureInfo,
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
    result = opened(round_trip(saved(Image.fromarray(array), fmt)))
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
    picture = read(saved(Image.fromarray(array), fmt, quality=95))
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
    results = [
        decoded_png(round_trip(raw_png(array, 2, png_chunk(b"eXIf", block)))),
        tifffile.imread(io.BytesIO(round_trip(out.getvalue()))),
    ]
    grid = Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.int32).reshape(HEIGHT, WIDTH))
    grid.getexif()[0x0112] = orientation
    order = np.asarray(ImageOps.exif_transpose(grid))
    header = probe(out.getvalue())
    assert (header.height, header.width) == order.shape
    for result in results:
        assert np.array_equal(result, array.reshape(-1, 3)[order])


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
