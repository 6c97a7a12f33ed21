"""XMP survives in every format, without pointers to data that is not kept."""

import hashlib

import pytest
from PIL import Image, PngImagePlugin
from support import images as kit
from support.images import shared

from varfix.engine.image import jpeg
from varfix.engine.image.metadata import xmp
from varfix.engine.image.writer import encode_image

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
