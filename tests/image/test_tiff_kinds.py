"""TIFF files as other programs lay them out: planes, tiles, compressions, previews, maps."""

import hashlib
import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps
from support import images as kit

from varfix.engine.errors import DecodeUnknownError, DecodeUnsupportedError
from varfix.engine.image.decoded_image import to_integers
from varfix.engine.image.header import probe
from varfix.engine.image.metadata.exif_block import Value, lay_out
from varfix.engine.image.writer import encode_image

FILES = Path(__file__).parents[3] / "shared/data/files"
HEIGHT, WIDTH = 37, 50
LZW, ZSTD, WEBP, JXL, LERC = 5, 50000, 50001, 50002, 34887

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


def stored(image):
    return to_integers(image.pixels, depth=image.info.depth, gray=image.info.mode == "gray")


def noise(channels, dtype=np.uint16):
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


def with_preview(*, below=False, subfile=True):
    """Write a small copy first and the image behind or below it."""
    out, array = io.BytesIO(), noise(3, np.uint8)
    small = {"subfiletype": 1} if subfile else {}
    with tifffile.TiffWriter(out) as writer:
        tags = [(271, 2, 6, b"Maker\x00", True)]
        writer.write(
            array[::4, ::4],
            photometric="rgb",
            subifds=int(below),
            metadata=None,
            extratags=tags,
            **small,
        )
        writer.write(array, photometric="rgb", metadata=None)
    return out.getvalue(), array


@pytest.mark.parametrize("below", [False, True])
def test_the_image_is_restored_and_not_the_preview_before_it(below, tmp_path):
    data, array = with_preview(below=below)
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    assert (probe(path).width, probe(path).height) == (WIDTH, HEIGHT)
    assert np.array_equal(stored(kit.read(data)), array)
    result = kit.opened(kit.round_trip(data))
    assert np.array_equal(np.asarray(result), array)
    assert result.getexif()[271] == "Maker"


@pytest.mark.parametrize("order", "<>")
def test_a_bigtiff_is_read_or_refused_by_name(order):
    out, array = io.BytesIO(), noise(3)
    tifffile.imwrite(out, array, photometric="rgb", bigtiff=True, byteorder=order)
    if order == "<":
        assert np.array_equal(stored(kit.read(out.getvalue())), array)
        return
    with pytest.raises(DecodeUnsupportedError, match=r"unsupported TIFF \(big-endian BigTIFF\)"):
        kit.read(out.getvalue())


@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg", "zstd", "packbits"])
def test_a_preview_before_a_compressed_image_is_passed_over(compression):
    out, array = io.BytesIO(), np.kron(noise(3, np.uint8)[:8, :8], np.ones((8, 8, 1), np.uint8))
    small, large = Image.fromarray(array[::4, ::4]), Image.fromarray(array)
    params = {"compression": compression, "save_all": True, "append_images": [large]}
    small.save(out, "TIFF", tiffinfo={254: 1}, **params)
    data = bytearray(out.getvalue())
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        if file.pages[1].subfiletype:  # Pillow gives the tag to both
            struct.pack_into("<I", data, file.pages[1].tags[254].valueoffset, 0)
        assert file.pages[0].subfiletype == 1
    result = stored(kit.read(bytes(data)))
    assert result.shape == array.shape
    assert np.abs(result.astype(int) - array).mean() < (20 if compression == "jpeg" else 1e-9)


def test_two_images_without_a_word_on_which_is_smaller_are_pages():
    data, _array = with_preview(subfile=False)
    with pytest.raises(DecodeUnsupportedError, match="has 2 pages"):
        kit.read(data)


@pytest.mark.parametrize(
    "tags, name",
    [([(50706, 1, 4, b"\x01\x04\x00\x00", True)], "DNG"), ([], "camera raw")],
)
def test_raw_files_are_refused_by_name(tags, name, tmp_path):
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as writer:
        writer.write(noise(3)[::4, ::4], photometric="rgb", subfiletype=1, subifds=1)
        writer.write(noise(1)[..., 0], photometric="cfa", extratags=tags)
    path = tmp_path / "a.tif"
    path.write_bytes(out.getvalue())
    for call in (lambda: kit.read(out.getvalue()), lambda: probe(path)):
        with pytest.raises(DecodeUnsupportedError, match=rf"not supported \({name}\)") as caught:
            call()
        assert "TIFF" in caught.value.hint


def test_the_preview_of_a_dng_is_not_restored():
    path = FILES / "dng_thumb_ifd0.dng"
    if not path.exists():
        pytest.skip("../shared is not here")
    with pytest.raises(DecodeUnsupportedError, match=r"raw files are not supported \(DNG\)"):
        kit.read(path.read_bytes())


GEO = [
    (33550, 12, 3, (0.5, 0.5, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0), True),
    (34735, 3, 8, (1, 1, 1, 1, 1024, 0, 1, 1), True),
    (34737, 2, 5, b"WGS|\x00", True),
    (42113, 2, 6, b"-9999\x00", True),
]


def geo_tiff(order="<", orientation=1):
    out = io.BytesIO()
    tags = [*GEO, (274, 3, 1, orientation, True)]
    tifffile.imwrite(out, noise(3), photometric="rgb", byteorder=order, extratags=tags)
    return out.getvalue()


@pytest.mark.parametrize("order", "<>")
def test_geotiff_tags_are_kept(order):
    encoded = encode_image(kit.read(geo_tiff(order)), "keep", kit.KEEP)
    with tifffile.TiffFile(io.BytesIO(encoded.data)) as file:
        tags = file.pages[0].tags
        assert {code: tags[code].value for code, *_ in GEO} == {
            code: value.rstrip(b"\x00").decode() if isinstance(value, bytes) else value
            for code, _kind, _count, value, _once in GEO
        }
    assert encoded.warnings == ()


@pytest.mark.parametrize("fmt", ["jpeg", "png", "webp", "avif"])
def test_a_georeference_that_a_format_cannot_hold_is_a_warning(fmt):
    encoded = encode_image(kit.read(geo_tiff()), fmt, kit.KEEP)
    assert any("georeference" in text for text in encoded.warnings)
    assert 33922 not in kit.opened(encoded.data).getexif()


def test_a_georeference_does_not_survive_a_turn():
    image = kit.read(geo_tiff(orientation=6))
    assert any("georeference" in text for text in image.info.warnings)
    with tifffile.TiffFile(io.BytesIO(encode_image(image, "keep", kit.KEEP).data)) as file:
        assert 33922 not in file.pages[0].tags


NAMES = {0: "unspecified", 2: "unassalpha"}


def with_channels(dtype, kinds, colors=3):
    array = noise(colors + len(kinds), dtype)
    out = io.BytesIO()
    tifffile.imwrite(
        out,
        array,
        photometric="rgb" if colors == 3 else "minisblack",
        planarconfig="contig",
        extrasamples=[NAMES[kind] for kind in kinds],
    )
    return out.getvalue(), array


@pytest.mark.parametrize(
    "dtype, kinds, colors",
    [
        (np.uint8, (0,), 1),
        (np.uint8, (0,), 3),
        (np.uint8, (0, 0), 3),
        (np.uint8, (2, 0), 3),
        (np.uint16, (0,), 3),
    ],
)
def test_channels_without_a_meaning_are_kept(dtype, kinds, colors):
    data, array = with_channels(dtype, kinds, colors)
    image = kit.read(data)
    encoded = encode_image(image, "keep", kit.KEEP)
    assert encoded.warnings == ()
    assert np.array_equal(tifffile.imread(io.BytesIO(encoded.data)), array)
    other = encode_image(image, "png", kit.KEEP)
    assert other.warnings == ("PNG cannot store extra channels: they are not kept",)


@pytest.mark.parametrize("dtype, kinds", [(np.uint16, (2, 0)), (np.uint8, (0, 2))])
def test_channels_in_an_odd_order_are_refused_by_name(dtype, kinds):
    data, _array = with_channels(dtype, kinds)
    with pytest.raises(DecodeUnsupportedError, match="unsupported TIFF"):
        kit.read(data)


def test_extra_channels_are_turned_with_the_image():
    array = noise(4, np.uint8)
    out = io.BytesIO()
    tags = [(274, 3, 1, 6, True)]
    params = {"photometric": "rgb", "extrasamples": ["unspecified"], "extratags": tags}
    tifffile.imwrite(out, array, **params)
    result = tifffile.imread(io.BytesIO(kit.round_trip(out.getvalue())))
    assert np.array_equal(result, np.rot90(array, -1))


def test_images_without_extra_channels_have_none():
    image = kit.read(tiff(noise(3)))
    assert image.extra is None
    assert replace(image, extra=noise(1)).nbytes > image.nbytes


@pytest.mark.parametrize(
    "head, kind",
    [
        (b"IIU\x00\x18\x00\x00\x00", "panasonic-rw2"),
        (b"IIRO\x08\x00\x00\x00", "olympus-orf"),
        (b"FUJIFILMCCD-RAW 0201", "fuji-raf"),
        (b"\x00\x00\x00\x18ftypcrx \x00\x00\x00\x01", "canon-cr3"),
    ],
)
def test_raw_files_of_other_structure_are_named(head, kind):
    with pytest.raises(DecodeUnknownError, match=f"image/x-{kind}") as caught:
        kit.read(head + bytes(100))
    assert "16-bit TIFF" in caught.value.hint
