"""Texts and tags survive from every format to every other, or a warning says that they do not."""

import io
import struct

import numpy as np
import pytest
import tifffile
from support import images as kit
from support.exif import HOLDING, tags_of, text, written
from support.images import shared

from varfix.engine.formats import FORMATS
from varfix.engine.image.metadata import exif_block
from varfix.engine.image.metadata.exif_block import BYTE, SHORT, UNDEFINED, ExifBlock, Value
from varfix.engine.image.writer import encode_image

WORDS = {270: "Grüße aus Köln", 315: "Žofie", 33432: "© 2020 日本"}
TITLE = "Título".encode("utf-16-le") + bytes(2)


def block(order="<", **exif):
    main = {code: text(words) for code, words in WORDS.items()}
    main |= {
        40091: Value(BYTE, len(TITLE), TITLE),
        18246: Value(SHORT, 1, struct.pack(f"{order}H", 4)),
    }
    inner = {
        36867: text("2020:01:02 03:04:05"),
        37510: Value(UNDEFINED, 12, b"UNICODE\x00w\x00o\x00"),
    }
    return exif_block.pack(ExifBlock(order, main, inner, {}, {1: text("R98")}))


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("target", HOLDING)
@pytest.mark.parametrize("source", HOLDING)
def test_texts_in_utf_8_survive_every_pair_of_formats(source, target, order):
    if FORMATS[target].module:
        pytest.importorskip(FORMATS[target].module)
    encoded = encode_image(kit.read(written(source, block(order))), target, kit.KEEP)
    assert encoded.warnings == ()
    found = tags_of(encoded.data)
    for code, words in WORDS.items():
        assert found.main[code].data == words.encode("utf-8") + b"\x00"
    assert found.main[40091].data == TITLE
    assert struct.unpack(f"{found.order}H", found.main[18246].data)[0] == 4
    assert found.exif[36867].data == b"2020:01:02 03:04:05\x00"
    assert found.interop[1].data == b"R98\x00"


@pytest.mark.parametrize("target", HOLDING)
@pytest.mark.parametrize(
    "name, words",
    [
        ("tiff_nonascii_tags.tif", {270: "Grüße aus Köln", 315: "Žofie", 33432: "© 2020"}),
        ("jpeg_nonascii_exif.jpg", {270: "desc ü", 315: "Ä. B"}),
    ],
)
def test_texts_of_other_programs_survive(name, words, target):
    if FORMATS[target].module:
        pytest.importorskip(FORMATS[target].module)
    encoded = encode_image(kit.read(shared(name)), target, kit.KEEP)
    found = tags_of(encoded.data).main
    assert {code: found[code].data.rstrip(b"\x00").decode("utf-8") for code in words} == words


def test_tags_of_windows_and_of_pages_survive_in_a_tiff():
    for target in ("tiff", "avif", "jpeg"):
        encoded = encode_image(kit.read(shared("t_xp.tif")), target, kit.KEEP)
        found = tags_of(encoded.data).main
        assert found[40091].data.decode("utf-16-le").rstrip("\x00") == "Title"
        assert found[40094].data.decode("utf-16-le").rstrip("\x00") == "kw1"
        assert found[269].data == b"docname\x00"
        assert found[285].data == b"page a\x00"
        assert encoded.warnings == ()


def test_a_tiff_without_texts_gains_none():
    out = io.BytesIO()
    tifffile.imwrite(out, kit.smooth(), photometric="rgb", software=False)
    image = kit.read(out.getvalue())
    assert image.info.exif is None
    with tifffile.TiffFile(io.BytesIO(kit.round_trip(out.getvalue()))) as file:
        assert not {270, 305, 306} & set(file.pages[0].tags.keys())
    assert np.array_equal(tifffile.imread(io.BytesIO(kit.round_trip(out.getvalue()))), kit.smooth())


NUMBERS = {1: "B", 3: "H", 4: "I", 5: "2I", 6: "b", 8: "h", 9: "i", 10: "2i", 11: "f", 12: "d"}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", NUMBERS)
@pytest.mark.parametrize("count", [1, 2, 6])
def test_values_of_every_type_keep_type_count_and_bytes_in_a_tiff(kind, count, order):
    form = NUMBERS[kind]
    size = struct.calcsize(f"={form}")
    data = bytes(range(1, 1 + size * count))
    packed = exif_block.pack(
        ExifBlock(order, {318: Value(kind, count, data), 65000: Value(kind, count, data)})
    )
    there = encode_image(kit.read(written("jpeg", packed)), "tiff", kit.KEEP)
    again = encode_image(kit.read(there.data), "tiff", kit.KEEP)
    for result in (there, again):
        found = tags_of(result.data)
        assert found.order == order
        for code in (318, 65000):
            value = found.main[code]
            assert (value.kind, value.count, value.data) == (kind, count, data)
