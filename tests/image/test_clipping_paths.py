"""Clipping paths of Photoshop survive where a format holds them."""

import struct

import pytest
from PIL import Image
from support import images as kit
from support.images import shared

from varfix.engine.image import jpeg
from varfix.engine.image.metadata.iptc import resources
from varfix.engine.image.writer import encode_image

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
