"""Comments survive from every format to every other, or a warning says that they do not."""

import pytest
from PIL import Image, PngImagePlugin
from support import images as kit
from support.exif import tags_of, text

from varfix.engine.formats import FORMATS
from varfix.engine.image import jpeg
from varfix.engine.image.metadata import exif_block
from varfix.engine.image.metadata.exif_block import ExifBlock
from varfix.engine.image.writer import encode_image

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
