"""Maker notes of cameras are kept where their offsets stay true."""

import struct

import pytest
from support import images as kit
from support.exif import HOLDING, tags_of, text, written
from support.images import shared

from varfix.engine.formats import FORMATS
from varfix.engine.image.metadata import exif_block, tiff_tags
from varfix.engine.image.metadata.exif_block import UNDEFINED, ExifBlock, Value
from varfix.engine.image.metadata.maker_note import breaks_when_moved
from varfix.engine.image.writer import encode_image


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
