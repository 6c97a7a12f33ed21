"""Real files of every format, mode and depth come back as they were."""

import io

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from support.images import (
    HEIGHT,
    KEEP,
    WIDTH,
    decoded_png,
    noise,
    opened,
    png_chunk,
    raw_png,
    read,
    round_trip,
    saved,
    smooth,
)

from varfix.engine.errors import NonFiniteError
from varfix.engine.image.decoded_image import DecodedImage, ImageInfo, to_floats, to_integers
from varfix.engine.image.writer import encode_image_bytes
from varfix.engine.settings.types import OutputSettings

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
def test_transparency_and_the_colors_under_it_come_back_exactly(fmt, mode, channels):
    array = noise(channels)
    array[:6, :, -1] = 0
    array[6:9, :, -1] = 255
    result = opened(round_trip(saved(Image.fromarray(array), fmt)))
    assert (result.format, result.mode) == (fmt, mode)
    assert np.array_equal(np.asarray(result), array)


def test_a_bilevel_image_becomes_gray():
    array = noise(1) > 127
    image = read(saved(Image.fromarray(array), "PNG"))
    assert image.info.mode == "gray"
    result = np.asarray(opened(encode_image_bytes(image, "keep", KEEP)))
    assert np.array_equal(result, np.where(array, 255, 0))


def test_a_palette_becomes_its_colors():
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


@pytest.mark.parametrize("mode, color", [("RGB", (1, 2, 3)), ("L", 7)])
def test_a_transparent_color_becomes_alpha(mode, color):
    source = Image.fromarray(noise(3 if mode == "RGB" else 1))
    source.putpixel((4, 5), color)
    image = read(saved(source, "PNG", transparency=color))
    expected = np.full((HEIGHT, WIDTH), 255)
    expected[np.all(np.atleast_3d(np.asarray(source)) == color, axis=2)] = 0
    assert expected[5, 4] == 0
    assert np.array_equal(image.alpha, expected)


@pytest.mark.parametrize("color_type, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_16_bit_png_comes_back_exactly(color_type, channels):
    array = noise(channels, np.uint16)
    image = read(raw_png(array, color_type))
    assert (image.info.depth, image.info.mode) == (16, "gray" if channels < 3 else "rgb")
    result = decoded_png(encode_image_bytes(image, "keep", KEEP))
    assert result.dtype == np.uint16
    # Gray with alpha is stored as RGBA: no library writes it at 16 bits.
    assert np.array_equal(result, array[..., [0, 0, 0, 1]] if channels == 2 else array)


@pytest.mark.parametrize("color_type, channels", [(0, 1), (2, 3)])
def test_a_transparent_color_at_16_bits_becomes_alpha(color_type, channels):
    array = noise(channels, np.uint16)
    key = np.atleast_1d(array[2, 3])
    image = read(raw_png(array, color_type, png_chunk(b"tRNS", key.astype(">u2").tobytes())))
    assert image.alpha.dtype == np.uint16
    assert image.alpha[2, 3] == 0
    assert np.count_nonzero(image.alpha == 65535) == HEIGHT * WIDTH - 1


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
    image = read(saved(Image.fromarray(array), fmt, quality=95))
    result = np.asarray(opened(encode_image_bytes(image, "keep", KEEP)))
    assert np.abs(result[..., 3].astype(int) - array[..., 3]).mean() < 2


def test_jpeg_keeps_full_color_resolution_and_quality_decides_the_size():
    image = read(saved(Image.fromarray(noise()), "PNG"))
    good = encode_image_bytes(image, "jpg", OutputSettings(jpeg_quality=95))
    poor = encode_image_bytes(image, "jpg", OutputSettings(jpeg_quality=20))
    assert opened(good).layer[1][1:3] == (1, 1)
    assert opened(good).layer[0][1:3] == (1, 1)
    assert len(poor) < len(good)


def test_png_small_is_smaller_and_the_same():
    image = read(saved(Image.fromarray(np.tile(smooth(), (8, 8, 1))), "PNG"))
    fast = encode_image_bytes(image, "png", OutputSettings(png_level="fast"))
    small = encode_image_bytes(image, "png", OutputSettings(png_level="small"))
    assert len(small) < len(fast)
    assert np.array_equal(np.asarray(opened(small)), np.asarray(opened(fast)))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 2)])
@pytest.mark.parametrize("fmt", ["png", "tiff", "bmp"])
def test_the_smallest_images_are_restored(size, fmt):
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
    colors = to_integers(pixels, depth=depth, gray=False)
    assert np.array_equal(colors, values[..., None].repeat(3, axis=2))


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
        encode_image_bytes(DecodedImage(pixels, None, ImageInfo("png")), "png", KEEP)
