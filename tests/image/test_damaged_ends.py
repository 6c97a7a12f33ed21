"""Damage that decoders pass over in silence is found; damage that costs nothing is not fatal."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image
from support import images as kit
from support.images import shared

from varfix.engine.errors import DecodeTruncatedError, DecodeUnsupportedError
from varfix.engine.image.header import probe
from varfix.engine.image.writer import encode_image


def photo(height=240, width=320):
    """Return an image with enough detail that its coded data has no zeros of its own."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    smooth = np.dstack([np.sin(x / 9) * np.cos(y / 7) * 100 + 128, x % 200, y % 200])
    return Image.fromarray((smooth + rng.integers(0, 20, smooth.shape)).astype(np.uint8))


JPEGS = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "optimized": {"optimize": True},
    "full color": {"subsampling": 0},
}


def jpeg(kind, mode="RGB"):
    return kit.saved(photo().convert(mode), "JPEG", quality=85, **JPEGS[kind])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_was_cut_and_closed_is_refused(kind, mode):
    data = jpeg(kind, mode)
    assert kit.read(data)
    for part in (0.3, 0.6, 0.95):
        with pytest.raises(DecodeTruncatedError, match="the missing part would be gray"):
            kit.read(data[: int(len(data) * part)] + b"\xff\xd9")


@pytest.mark.parametrize("size", [512, 4096])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_with_zeroed_sectors_is_refused(kind, size):
    data = bytearray(jpeg(kind))
    at = len(data) // 2
    data[at : at + size] = bytes(size)
    with pytest.raises(DecodeTruncatedError):
        kit.read(bytes(data))


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_flat_jpeg_is_not_taken_for_a_damaged_one(kind, value):
    data = kit.saved(Image.new("RGB", (1600, 1200), (value,) * 3), "JPEG", **JPEGS[kind])
    assert kit.read(data).pixels.shape == (1200, 1600, 3)


def test_a_jpeg_of_another_program_that_was_cut_is_refused():
    assert kit.read(shared("jpeg_q75_420.jpg"))
    with pytest.raises(DecodeTruncatedError):
        kit.read(shared("jpeg_cut_then_eoi.jpg"))


@pytest.mark.parametrize("more", [bytes(2000), b"\r\n", b"\xff\xff\xff"])
@pytest.mark.parametrize("kind", JPEGS)
def test_padding_around_the_end_marker_is_no_damage(kind, more):
    data = jpeg(kind)
    assert kit.read(data + more)
    if kind != "restarts":
        assert kit.read(data[:-2] + b"\xff\xff" + data[-2:])


def png_parts(data):
    at, parts = 8, []
    while at < len(data):
        length = struct.unpack_from(">I", data, at)[0]
        parts.append(data[at : at + 12 + length])
        at += 12 + length
    return parts


def png(depth=8, **params):
    if depth == 16:
        array = np.random.default_rng(0).integers(0, 65536, (48, 64, 3)).astype(np.uint16)
        return cv2.imencode(".png", array)[1].tobytes()
    return kit.saved(photo(48, 64), "PNG", **params)


def broken(part):
    """Return a chunk with another checksum."""
    return part[:-4] + bytes(byte ^ 1 for byte in part[-4:])


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    "chunk",
    [
        kit.png_chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1)),
        kit.png_chunk(b"tEXt", b"Comment\x00words"),
        kit.png_chunk(b"gAMA", struct.pack(">I", 100_000)),
    ],
    ids=["pHYs", "tEXt", "gAMA"],
)
@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_damaged_chunk_that_decoding_does_not_need_is_a_warning(chunk, depth, place, tmp_path):
    data = png(depth)
    head, *rest, end = png_parts(data)
    more = (
        [head, broken(chunk), *rest, end]
        if place == "before"
        else [head, *rest, broken(chunk), end]
    )
    damaged = data[:8] + b"".join(more)
    path = tmp_path / "a.png"
    path.write_bytes(damaged)
    assert probe(path) == probe(data)
    image = kit.read(damaged)
    kind = chunk[4:8].decode()
    text = f"the {kind} chunk is damaged (wrong checksum) and was not kept"
    assert image.info.warnings == (text,)
    assert np.array_equal(image.pixels, kit.read(data).pixels)
    assert image.info.resolution is None
    assert image.info.chunks == ()


def test_a_chunk_of_a_wrong_length_is_a_warning():
    head, *rest = png_parts(png())
    short = kit.png_chunk(b"gAMA", b"\x00")
    image = kit.read(png()[:8] + head + short + b"".join(rest))
    assert image.info.warnings == ("the gAMA chunk is damaged (wrong length) and was not kept",)


def test_a_damaged_chunk_of_another_program_is_a_warning():
    image = kit.read(shared("p_badcrc_phys.png"))
    assert "pHYs" in image.info.warnings[0]
    with pytest.raises(DecodeTruncatedError):
        kit.read(shared("png16_bad_idat_crc.png"))


@pytest.mark.parametrize("depth", [8, 16])
def test_damaged_pixels_of_a_png_are_refused_at_every_depth(depth):
    head, *rest = png_parts(png(depth))
    damaged = png(depth)[:8] + head + broken(rest[0]) + b"".join(rest[1:])
    with pytest.raises(DecodeTruncatedError, match="damaged"):
        kit.read(damaged)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("cut", ["end chunk", "tail", "zeros", "zeros and end"])
def test_a_png_without_its_end_is_refused_at_every_depth(depth, cut):
    data = png(depth)
    part = int(len(data) * 0.7)
    short = {
        "end chunk": data[:-12],
        "tail": data[:part],
        "zeros": data[:part] + bytes(len(data) - part),
        "zeros and end": data[:part] + bytes(len(data) - part - 12) + data[-12:],
    }[cut]
    with pytest.raises(DecodeTruncatedError):
        kit.read(short)


@pytest.mark.parametrize("name", ["png_zero_tail_no_iend.png", "webp_zero_tail.webp"])
def test_files_that_end_in_zeros_are_refused(name):
    with pytest.raises(DecodeTruncatedError):
        kit.read(shared(name))


def heif(image):
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=80)
    return out.getvalue()


CODED = {
    "webp": lambda image: kit.saved(image, "WEBP", quality=80),
    "webp lossless": lambda image: kit.saved(image, "WEBP", lossless=True),
    "webp alpha": lambda image: kit.saved(image.convert("RGBA"), "WEBP", quality=80),
    "avif": lambda image: kit.saved(image, "AVIF", quality=80),
    "avif alpha": lambda image: kit.saved(image.convert("RGBA"), "AVIF", quality=80),
    "heif": heif,
}


@pytest.mark.parametrize("part", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("kind", CODED)
def test_coded_data_that_ends_in_zeros_is_refused(kind, part):
    data = CODED[kind](photo())
    assert kit.read(data)
    keep = int(len(data) * part)
    with pytest.raises(DecodeTruncatedError):
        kit.read(data[:keep] + bytes(len(data) - keep))


@pytest.mark.parametrize("kind", CODED)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_images_are_not_taken_for_damaged_ones(kind, value):
    flat = Image.new("RGB", (640, 480), (value,) * 3)
    assert kit.read(CODED[kind](flat)).pixels.shape == (480, 640, 3)


def apple_png():
    """Write a PNG as Xcode does: another first chunk, and pixels without a zlib header."""
    head, *rest = png_parts(png())
    first = kit.png_chunk(b"CgBI", b"\x50\x00\x20\x02")
    raw = zlib.compressobj(wbits=-15)
    pixels = raw.compress(bytes(48 * (1 + 64 * 4))) + raw.flush()
    return png()[:8] + first + head + kit.png_chunk(b"IDAT", pixels) + rest[-1]


def test_a_png_in_apples_own_format_is_named(tmp_path):
    path = tmp_path / "a.png"
    for data in (apple_png(), shared("png_cgbi.png")):
        path.write_bytes(data)
        for source in (data, path):
            with pytest.raises(DecodeUnsupportedError, match="CgBI") as caught:
                probe(source)
            assert "pngcrush" in caught.value.hint


@pytest.mark.parametrize("bits, values", [(1, 2), (2, 4), (4, 16)])
@pytest.mark.parametrize("clear", [0, 1])
def test_gray_of_few_bits_keeps_its_transparency(bits, values, clear):
    """Write rows of gray values, packed, one value of which is transparent."""
    gray = np.random.default_rng(2).integers(0, values, (5, 16))
    packed = np.packbits((gray[..., np.newaxis] >> np.arange(bits)[::-1]) & 1).reshape(5, -1)
    rows = b"".join(b"\x00" + row.tobytes() for row in packed)
    header = struct.pack(">IIBBBBB", 16, 5, bits, 0, 0, 0, 0)
    parts = [
        kit.png_chunk(b"IHDR", header),
        kit.png_chunk(b"tRNS", struct.pack(">H", clear)),
        kit.png_chunk(b"IDAT", zlib.compress(rows)),
        kit.png_chunk(b"IEND", b""),
    ]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(parts)
    assert probe(data).has_alpha
    result = np.asarray(kit.opened(kit.round_trip(data)))
    scale = 255 // (values - 1)
    assert np.array_equal(result[..., 0], gray * scale)
    assert np.array_equal(result[..., 1], np.where(gray == clear, 0, 255))


def bmp(alpha):
    array = np.dstack([np.asarray(photo(48, 64)), alpha])
    return cv2.imencode(".bmp", np.ascontiguousarray(array[..., [2, 1, 0, 3]]))[1].tobytes(), array


def test_a_bmp_keeps_its_transparency():
    data, array = bmp(np.random.default_rng(0).integers(0, 256, (48, 64)).astype(np.uint8))
    encoded = encode_image(kit.read(data), "keep", kit.KEEP)
    assert np.array_equal(np.asarray(kit.opened(encoded.data)), array)
    assert encoded.warnings == ()


def test_a_bmp_whose_alpha_is_empty_is_opaque():
    data, array = bmp(np.zeros((48, 64), np.uint8))
    image = kit.read(data)
    assert image.alpha is None
    result = kit.opened(encode_image(image, "png", kit.KEEP).data)
    assert np.array_equal(np.asarray(result), array[..., :3])


@pytest.mark.parametrize("name", ["bmp_v5_alpha.bmp", "bmp_v5_alpha_all_zero.bmp"])
def test_bmps_of_another_program_are_restored_by_default(name):
    data = shared(name)
    result = kit.opened(kit.round_trip(data))
    assert result.mode == ("RGB" if "zero" in name else "RGBA")
    assert np.array_equal(
        np.asarray(result.convert("RGB")), np.asarray(kit.opened(data).convert("RGB"))
    )
