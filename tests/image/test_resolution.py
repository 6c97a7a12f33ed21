"""A result states the resolution that its source states, in the same unit, or none."""

import io
import struct

import pytest
import tifffile
from PIL import Image
from support import images as kit

from varfix.engine.image.metadata.resolution import Resolution
from varfix.engine.image.writer import encode_image

TARGETS = ("jpeg", "png", "tiff", "webp", "avif", "bmp")
SAID_IN_EXIF = ("webp", "avif")


def exif(across=None, down=None, unit=2, orientation=1):
    block = Image.Exif()
    block[0x010F] = "Maker"
    block[0x0112] = orientation
    if across:
        block[0x011A], block[0x011B], block[0x0128] = across, down, unit
    return block.tobytes()


def jpeg(unit, across, down, **params):
    """Return a JPEG with these fields in its JFIF segment."""
    data = bytearray(kit.saved(Image.fromarray(kit.smooth()), "JPEG", **params))
    at = data.index(b"JFIF\x00") + 7
    struct.pack_into(">BHH", data, at, unit, across, down)
    return bytes(data)


def png(*physical):
    data = kit.saved(Image.fromarray(kit.smooth()), "PNG")
    chunk = kit.png_chunk(b"pHYs", struct.pack(">IIB", *physical)) if physical else b""
    return data[:33] + chunk + data[33:]


def tiff(pixels=None, unit=None):
    if pixels is None:
        return kit.saved(Image.fromarray(kit.smooth()), "TIFF")
    out = io.BytesIO()
    params = {"resolution": pixels, "resolutionunit": unit}
    tifffile.imwrite(out, kit.smooth(), metadata=None, software=False, **params)
    return out.getvalue()


def bmp(across, down):
    data = bytearray(kit.saved(Image.fromarray(kit.smooth()), "BMP"))
    struct.pack_into("<II", data, 38, across, down)
    return bytes(data)


def stated(data):
    """Return the stated resolution, found in the bytes of a file as other programs find it."""
    image = kit.opened(data)
    if image.format == "JPEG":
        at = data.index(b"JFIF\x00") + 7
        return struct.unpack_from(">BHH", data, at)
    if image.format == "PNG":
        at = data.find(b"pHYs")
        return None if at < 0 else struct.unpack_from(">IIB", data, at + 4)
    if image.format == "BMP":
        return struct.unpack_from("<II", data, 38)
    tags = image.tag_v2 if image.format == "TIFF" else image.getexif()
    found = [tags.get(code) for code in (282, 283, 296)]
    return None if found[0] is None else tuple(map(float, found))


NOTHING = {"jpeg": (0, 1, 1), "tiff": (1, 1, 1), "bmp": (0, 0)}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "source",
    [
        jpeg(0, 1, 1, exif=exif()),
        tiff(),
        png(),
        bmp(0, 0),
        kit.saved(Image.fromarray(kit.smooth()), "WEBP", exif=exif()),
    ],
    ids=["jpeg", "tiff", "png", "bmp", "webp"],
)
def test_a_file_without_a_resolution_gets_none(source, target):
    result = encode_image(kit.read(source), target, kit.KEEP)
    assert stated(result.data) == NOTHING.get(target)
    assert [text for text in result.warnings if "EXIF" not in text] == []


@pytest.mark.parametrize("target", ["jpeg", "png", "tiff", "bmp"])
@pytest.mark.parametrize(
    "name",
    [
        "j_ori6_II_type1.jpg",
        "jpeg_makernote_absolute_offset.jpg",
        "jpeg_nonascii_exif.jpg",
        "tiff_nonascii_tags.tif",
    ],
)
def test_a_file_of_another_program_without_a_resolution_gets_none(name, target):
    result = encode_image(kit.read(kit.shared(name)), target, kit.KEEP)
    assert stated(result.data) == NOTHING.get(target)


@pytest.mark.parametrize(
    "source",
    [
        jpeg(1, 300, 150),
        jpeg(0, 1, 1, exif=exif(300.0, 150.0)),
        png(11811, 5906, 1),
        tiff((300, 150), 2),
        bmp(11811, 5906),
        kit.saved(Image.fromarray(kit.smooth()), "WEBP", exif=exif(300.0, 150.0)),
        kit.saved(Image.fromarray(kit.smooth()), "AVIF", exif=exif(300.0, 150.0)),
    ],
    ids=["jfif", "jpeg-exif", "png", "tiff", "bmp", "webp", "avif"],
)
def test_inches_stay_inches_between_all_formats(source):
    results = {target: stated(kit.round_trip(source, target)) for target in TARGETS}
    assert results == {
        "jpeg": (1, 300, 150),
        "png": (11811, 5906, 1),
        "tiff": (300, 150, 2),
        "webp": (300, 150, 2),
        "avif": (300, 150, 2),
        "bmp": (11811, 5906),
    }


@pytest.mark.parametrize(
    "source",
    [jpeg(2, 118, 50), png(11800, 5000, 1), tiff((118, 50), 3)],
    ids=["jpeg", "png", "tiff"],
)
def test_centimeters_stay_centimeters(source):
    results = {target: stated(kit.round_trip(source, target)) for target in TARGETS}
    assert results == {
        "jpeg": (2, 118, 50),
        "png": (11800, 5000, 1),
        "tiff": (118, 50, 3),
        "webp": (118, 50, 3),
        "avif": (118, 50, 3),
        "bmp": (11800, 5000),
    }


@pytest.mark.parametrize(
    "source", [jpeg(0, 4, 3), png(4, 3, 0), tiff((4, 3), 1)], ids=["jpeg", "png", "tiff"]
)
def test_a_ratio_without_a_unit_stays_or_is_named(source):
    image = kit.read(source)
    assert image.info.resolution == Resolution(4, 3, "none")
    for target, fields in {"jpeg": (0, 4, 3), "png": (4, 3, 0), "tiff": (4, 3, 1)}.items():
        result = encode_image(image, target, kit.KEEP)
        assert (stated(result.data), result.warnings) == (fields, ())
    for target, label in {"webp": "WebP", "avif": "AVIF", "bmp": "BMP"}.items():
        result = encode_image(image, target, kit.KEEP)
        assert stated(result.data) == NOTHING.get(target)
        lost = f"{label} cannot store pixels that are not square: their shape is not kept"
        assert result.warnings == (lost,)


def test_a_ratio_of_a_square_pixel_is_left_out_without_a_warning():
    assert encode_image(kit.read(jpeg(0, 72, 72)), "webp", kit.KEEP).warnings == ()


@pytest.mark.parametrize("target", TARGETS)
def test_a_quarter_turn_exchanges_the_numbers_everywhere(target):
    source = jpeg(0, 1, 1, exif=exif(300.0, 150.0, orientation=6))
    result = kit.round_trip(source, target)
    upright = kit.round_trip(jpeg(1, 150, 300), target)
    assert kit.read(result).info.resolution == kit.read(upright).info.resolution
    found = kit.opened(result).getexif()
    if target in ("jpeg", "png", *SAID_IN_EXIF):
        assert (found[0x011A], found[0x011B]) == (150, 300)


def test_a_jpeg_in_cmyk_states_its_resolution_in_exif():
    image = Image.fromarray(kit.smooth()).convert("CMYK")
    source = kit.saved(image, "TIFF", dpi=(300, 300))
    result = kit.round_trip(source, "jpeg")
    assert kit.opened(result).getexif()[0x011A] == 300


def test_a_preview_in_a_tiff_does_not_state_the_resolution_of_the_image():
    out = io.BytesIO()
    with tifffile.TiffWriter(out) as file:
        small = kit.smooth()[::2, ::2]
        file.write(small, subfiletype=1, resolution=(72, 72), resolutionunit=2, metadata=None)
        file.write(kit.smooth(), resolution=(30, 30), resolutionunit=3, metadata=None)
    assert kit.read(out.getvalue()).info.resolution == Resolution(30, 30, "cm")
