"""Texts and tags survive from every format to every other, or a warning says that they do not."""

import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin
from support import images as kit

from varfix.engine.formats import FORMATS
from varfix.engine.image import jpeg
from varfix.engine.image.metadata import exif_block, tiff_tags, xmp
from varfix.engine.image.metadata.exif import orientation_of, upright_exif
from varfix.engine.image.metadata.exif_block import ASCII, BYTE, SHORT, UNDEFINED, ExifBlock, Value
from varfix.engine.image.metadata.iptc import resources
from varfix.engine.image.metadata.maker_note import breaks_when_moved
from varfix.engine.image.writer import encode_image

FILES = Path(__file__).parents[3] / "shared/data/files"
HOLDING = ("jpeg", "png", "webp", "tiff", "avif", "heif", "jxl")

WORDS = {270: "Grüße aus Köln", 315: "Žofie", 33432: "© 2020 日本"}
TITLE = "Título".encode("utf-16-le") + bytes(2)


def shared(name):
    path = FILES / name
    if not path.exists():
        pytest.skip("../shared is not here")
    return path.read_bytes()


def text(words):
    data = words.encode("utf-8") + b"\x00"
    return Value(ASCII, len(data), data)


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


def written(fmt, exif):
    """Write a file by Pillow or a plug-in, which leave the block alone."""
    module = FORMATS[fmt].module
    if module:
        pytest.importorskip(module)
    image = Image.fromarray(kit.smooth())
    if fmt == "tiff":
        return encode_image(kit.read(written("jpeg", exif)), "tiff", kit.KEEP).data
    if fmt == "heif":
        import pillow_heif

        out = io.BytesIO()
        pillow_heif.from_pillow(image).save(out, exif=b"Exif\x00\x00" + exif)
        return out.getvalue()
    if fmt == "jxl":
        import pillow_jxl.JpegXLImagePlugin  # noqa: F401 - makes Pillow know the format

        return kit.saved(image, "JXL", exif=bytes(4) + exif)
    return kit.saved(image, fmt.upper(), exif=b"Exif\x00\x00" + exif)


def tags_of(data):
    """Return the raw values of all tags, however the format stores them."""
    raw = kit.read(data).info.exif
    return exif_block.parse(raw)


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


# Comments.

COMMENT = "Grandma, summer 1962"


def commented(comment, exif=None):
    params = {} if exif is None else {"exif": b"Exif\x00\x00" + exif}
    return kit.saved(Image.fromarray(kit.smooth()), "JPEG", comment=comment, **params)


@pytest.mark.parametrize("target", ["tiff", "avif", "webp", "heif", "jxl"])
def test_a_comment_becomes_the_description(target):
    if FORMATS[target].module:
        pytest.importorskip(FORMATS[target].module)
    encoded = encode_image(kit.read(commented(COMMENT)), target, kit.KEEP)
    assert tags_of(encoded.data).main[270].data == COMMENT.encode() + b"\x00"
    assert encoded.warnings == ()


@pytest.mark.parametrize("target", ["tiff", "avif"])
def test_a_comment_next_to_a_description_becomes_the_comment_of_windows(target):
    exif = exif_block.pack(ExifBlock(">", {270: text("other words")}))
    encoded = encode_image(kit.read(commented("Größe", exif)), target, kit.KEEP)
    found = tags_of(encoded.data).main
    assert found[270].data == b"other words\x00"
    assert found[40092].data.decode("utf-16-le") == "Größe\x00"


@pytest.mark.parametrize(
    "comment", [b"plain", "Grüße".encode(), "Grüße".encode("latin-1"), b"x" * 70_000]
)
def test_a_comment_survives_from_jpeg_to_jpeg_byte_by_byte(comment):
    head = kit.saved(Image.fromarray(kit.smooth()), "JPEG")
    data = jpeg.insert(head, jpeg.comment(comment))
    encoded = encode_image(kit.read(data), "keep", kit.KEEP)
    assert b"".join(jpeg.comments_of(encoded.data)) == b"".join(jpeg.comments_of(data)) or (
        len(comment) > 65533
    )
    assert encoded.warnings == ()


@pytest.mark.parametrize("comment", ["plain words", "Grüße", "日本"])
def test_comments_go_from_jpeg_to_png_and_back(comment):
    there = encode_image(kit.read(commented(comment.encode())), "png", kit.KEEP)
    assert kit.opened(there.data).text["Comment"] == comment
    back = encode_image(kit.read(there.data), "jpeg", kit.KEEP)
    assert jpeg.comments_of(back.data) == (comment.encode(),)
    assert there.warnings == back.warnings == ()


def test_a_comment_that_bmp_cannot_hold_is_a_warning():
    encoded = encode_image(kit.read(commented(COMMENT)), "bmp", kit.KEEP)
    assert encoded.warnings == ("BMP cannot store a comment: it is not kept",)


def test_texts_of_a_png_become_tags():
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "Jürgen")
    info.add_text("Title", "Ein Titel")
    info.add_text("date:create", "2020")
    info.add_text("parameters", "steps: 20")
    data = kit.saved(Image.fromarray(kit.smooth()), "PNG", pnginfo=info)
    encoded = encode_image(kit.read(data), "jpeg", kit.KEEP)
    found = tags_of(encoded.data).main
    assert found[315].data == "Jürgen\x00".encode()
    assert found[40091].data.decode("utf-16-le") == "Ein Titel\x00"
    assert encoded.warnings == ("PNG texts are not kept: parameters",)


# Photoshop's blocks.

PATH = b"8BIM" + struct.pack(">H", 2000) + b"\x06Path 1\x00" + struct.pack(">I", 26) + bytes(26)
NAME = b"8BIM" + struct.pack(">H", 2999) + bytes(2) + struct.pack(">I", 8) + b"\x06Path 1\x00"
THUMBNAIL = b"8BIM" + struct.pack(">H", 1036) + bytes(2) + struct.pack(">I", 30) + bytes(30)
RECORD = b"\x1c\x02\x78\x00\x05hello"


def with_path(orientation=1):
    image = Image.fromarray(kit.smooth())
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = kit.saved(image, "JPEG", exif=exif)
    return jpeg.insert(data, jpeg.resources(resources(RECORD) + PATH + THUMBNAIL + NAME))


@pytest.mark.parametrize("source", ["jpeg", "tiff"])
@pytest.mark.parametrize("target", ["jpeg", "tiff"])
def test_clipping_paths_survive_between_jpeg_and_tiff(source, target):
    first = encode_image(kit.read(with_path()), source, kit.KEEP)
    second = encode_image(kit.read(first.data), target, kit.KEEP)
    blocks = kit.opened(second.data)
    found = blocks.get_photoshop_blocks() if target == "tiff" else blocks.info["photoshop"]
    assert {2000, 2999} <= set(found)
    assert 1036 not in found  # a thumbnail of the image before
    assert kit.read(second.data).info.iptc == RECORD
    assert second.warnings == ()


def test_clipping_paths_do_not_survive_a_turn():
    image = kit.read(with_path(6))
    assert image.info.warnings == ("paths and guides are not kept: the image was turned",)
    assert image.info.iptc == RECORD
    assert PATH not in encode_image(image, "keep", kit.KEEP).data


@pytest.mark.parametrize("target", ["avif", "png", "webp"])
def test_clipping_paths_that_a_format_cannot_hold_are_a_warning(target):
    warnings = encode_image(kit.read(with_path()), target, kit.KEEP).warnings
    assert any("clipping paths" in words for words in warnings)


def test_paths_of_another_program_survive():
    result = encode_image(kit.read(shared("jpeg_clipping_path.jpg")), "tiff", kit.KEEP)
    found = kit.opened(result.data).get_photoshop_blocks()
    assert {2000, 2999} <= set(found)


# Maker notes.


def note(start, *, absolute, order="<"):
    """Build a maker note with a value outside of its entry."""
    head = struct.pack(f"{order}H", 1)
    at = (start if absolute else 0) + 2 + 12 + 4
    return head + struct.pack(f"{order}HHII", 1, 2, 8, at) + bytes(4) + b"private\x00"


def with_note(order, absolute):
    """Pack an EXIF block whose maker note knows where it lies."""
    place = 0
    for _ in range(2):  # first find out where it will lie
        made = note(place, absolute=absolute, order=order)
        inner = {0x927C: Value(UNDEFINED, len(made), made)}
        packed = exif_block.pack(ExifBlock(order, {271: text("Maker")}, inner))
        place = packed.index(made)
    return packed


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("target", HOLDING)
def test_a_maker_note_stays_where_its_offsets_stay_true(target, order):
    if FORMATS[target].module:
        pytest.importorskip(FORMATS[target].module)
    packed = with_note(order, absolute=True)
    encoded = encode_image(kit.read(written("jpeg", packed)), target, kit.KEEP)
    found = tags_of(encoded.data)
    assert found.main[271].data == b"Maker\x00"
    if target == "tiff":
        assert 0x927C not in found.exif
        assert encoded.warnings == (tiff_tags.MAKER_NOTE_LOST,)
    else:
        value = found.exif[0x927C]
        (at,) = struct.unpack_from(f"{order}I", value.data, 10)
        assert at == value.at + 18
        assert encoded.warnings == ()


@pytest.mark.parametrize("made", [b"words of a maker", b"Nikon\x00\x02" + bytes(40), b"", b"\x01"])
def test_notes_that_point_nowhere_are_not_broken_by_a_move(made):
    assert not breaks_when_moved(Value(UNDEFINED, len(made), made, 600))


@pytest.mark.parametrize("head", [b"", b"Panasonic\x00\x00\x00", b"SONY DSC \x00\x00\x00"])
def test_notes_with_offsets_from_outside_are_broken_by_a_move(head):
    made = head + note(900 + len(head), absolute=True)
    assert breaks_when_moved(Value(UNDEFINED, len(made), made, 900))
    own = head + note(0, absolute=False)
    assert not breaks_when_moved(Value(UNDEFINED, len(own), own, 900))


def test_a_maker_note_of_a_camera_is_dropped_only_where_it_moves():
    image = kit.read(shared("jpeg_makernote_absolute_offset.jpg"))
    assert encode_image(image, "tiff", kit.KEEP).warnings == (tiff_tags.MAKER_NOTE_LOST,)
    kept = encode_image(image, "avif", kit.KEEP)
    assert 0x927C in tags_of(kept.data).exif
    assert kept.warnings == ()


# Orientation.


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind, code", [(1, "B"), (3, "H"), (4, "I"), (6, "b"), (8, "h"), (9, "i")])
def test_orientation_of_every_number_type_is_read_and_reset(kind, code, order):
    value = Value(kind, 1, struct.pack(f"{order}{code}", 6))
    packed = exif_block.pack(ExifBlock(order, {0x0112: value, 271: text("Maker")}))
    assert orientation_of(packed) == 6
    data = written("jpeg", packed)
    image = kit.read(data)
    assert image.pixels.shape == (64, 48, 3)
    assert orientation_of(image.info.exif) == 1
    result = kit.opened(encode_image(image, "keep", kit.KEEP).data)
    assert result.getexif()[0x0112] in (1, b"\x01")
    assert upright_exif(packed, 1, 1) != packed


def test_orientation_of_another_program_is_reset():
    result = kit.opened(kit.round_trip(shared("j_ori6_II_type1.jpg")))
    assert result.size == (192, 256)
    assert result.getexif()[0x0112] in (1, b"\x01")


# XMP.

RDF = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF'
    b' xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">%s</rdf:RDF></x:xmpmeta>'
)


def packet(size):
    words = b"step; " * (size // 6)
    return RDF % (
        b'<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        b' dc:source="%s"/>' % words
    )


def test_xmp_larger_than_a_segment_goes_into_a_jpeg_in_parts():
    exif = Image.Exif()
    exif[271] = "Maker"
    text_of = PngImagePlugin.PngInfo()
    text_of.add_itxt("XML:com.adobe.xmp", packet(150_000).decode())
    data = kit.saved(Image.fromarray(kit.smooth()), "PNG", exif=exif, pnginfo=text_of)
    encoded = encode_image(kit.read(data), "jpeg", kit.KEEP)
    assert encoded.warnings == ()
    assert kit.opened(encoded.data).getexif()[271] == "Maker"
    parts = jpeg.extended_xmp_of(encoded.data)
    name = xmp.extension_named_in(kit.opened(encoded.data).info["xmp"])
    assert hashlib.md5(parts[name], usedforsecurity=False).hexdigest().upper().encode() == name
    assert parts[name] == packet(150_000)
    # And back: one packet again.
    assert b"step; step; " in kit.read(encoded.data).info.xmp
    assert b"HasExtendedXMP" not in kit.read(encoded.data).info.xmp


def test_exif_stays_when_xmp_does_not_fit():
    exif = Image.Exif()
    exif[271] = "Maker"
    text_of = PngImagePlugin.PngInfo()
    text_of.add_itxt("XML:com.adobe.xmp", "no XMP " * 20_000)
    data = kit.saved(Image.fromarray(kit.smooth()), "PNG", exif=exif, pnginfo=text_of)
    encoded = encode_image(kit.read(data), "jpeg", kit.KEEP)
    assert len(encoded.warnings) == 1
    assert kit.opened(encoded.data).getexif()[271] == "Maker"


def test_large_xmp_of_another_program_survives():
    encoded = encode_image(kit.read(shared("png_xmp_105k_exif.png")), "jpeg", kit.KEEP)
    assert encoded.warnings == ()
    assert kit.opened(encoded.data).getexif()[271] == "Maker"
    assert len(kit.read(encoded.data).info.xmp) > 90_000


@pytest.mark.parametrize("target", ["jpeg", "tiff", "avif", "png", "webp"])
def test_extended_xmp_of_another_program_survives(target):
    encoded = encode_image(kit.read(shared("j_extxmp.jpg")), target, kit.KEEP)
    found = kit.read(encoded.data).info.xmp
    assert b"HasExtendedXMP" not in found
    assert b"A" * 1000 in found
    assert b"image/jpeg" in found
    assert encoded.warnings == ()


def test_a_reference_to_extended_xmp_that_is_missing_is_dropped():
    data = shared("j_extxmp.jpg").replace(
        b"http://ns.adobe.com/xmp/extension/", b"http://x" + b"x" * 26
    )
    image = kit.read(data)
    assert image.info.warnings == ("the extended XMP is damaged and was not kept",)
    assert b"HasExtendedXMP" not in image.info.xmp


POINTERS = {
    "as attributes": b'<rdf:Description rdf:about="" xmlns:C="http://ns.google.com/photos/1.0/camera/"'
    b' xmlns:dc="http://purl.org/dc/elements/1.1/" C:MotionPhoto="1" C:MicroVideoOffset="24"'
    b' dc:format="image/jpeg"/>',
    "as elements": b'<rdf:Description rdf:about="" xmlns:C="http://ns.google.com/photos/1.0/camera/"'
    b' xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/jpeg"><C:MotionPhoto>1'
    b"</C:MotionPhoto><C:MicroVideoOffset>24</C:MicroVideoOffset></rdf:Description>",
}


@pytest.mark.parametrize("form", POINTERS)
@pytest.mark.parametrize("target", ["jpeg", "png", "avif", "tiff"])
def test_pointers_to_a_video_go_with_it(form, target):
    data = kit.saved(Image.fromarray(kit.smooth()), "JPEG", xmp=RDF % POINTERS[form])
    image = kit.read(data + b"\x00\x00\x00\x18ftypmp42" + bytes(3000))
    assert image.info.warnings == (
        "the video of a motion photo is not kept: it is appended to the image",
    )
    found = kit.read(encode_image(image, target, kit.KEEP).data).info.xmp
    assert b"MotionPhoto" not in found
    assert b"MicroVideo" not in found
    assert b'dc:format="image/jpeg"' in found


@pytest.mark.parametrize(
    "name, gone", [("j_motion.jpg", "motion photo"), ("j_ultrahdr.jpg", "HDR gain map")]
)
def test_data_after_the_image_is_dropped_with_its_pointers(name, gone):
    image = kit.read(shared(name))
    assert len(image.info.warnings) == 1
    assert gone in image.info.warnings[0]
    result = encode_image(image, "keep", kit.KEEP).data
    found = kit.read(result)
    assert found.info.warnings == ()
    for word in (b"MotionPhoto", b"MicroVideo", b"hdrgm:", b"Container:Directory", b"Item:Length"):
        assert word not in found.info.xmp


def test_data_behind_an_image_is_a_warning_and_padding_is_not():
    data = kit.saved(Image.fromarray(kit.smooth()), "JPEG")
    assert kit.read(data + b"more" * 10).info.warnings == (
        "data after the image is not kept (40 bytes)",
    )
    assert kit.read(data + bytes(400)).info.warnings == ()


def test_hostile_xmp_takes_little_time():
    """Unclosed elements and quotes must not be searched for again and again."""
    space = b'<a xmlns:C="http://ns.google.com/photos/1.0/camera/">'
    for part in (b"<C:MotionPhoto>", b' C:MotionPhoto="', b"<rdf:RDF>", b'xmlns:C="'):
        made = space + part * 50_000
        assert xmp.without_pointers(made)
        with pytest.raises(ValueError):
            xmp.merge(made, made)


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
