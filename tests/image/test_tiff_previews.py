"""Of a TIFF with a preview the image is restored; raw files are refused by name."""

import io
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image
from support import images as kit
from support.images import shared
from support.tiffs import HEIGHT, WIDTH, noise, stored

from varfix.engine.errors import DecodeUnknownError, DecodeUnsupportedError
from varfix.engine.image.header import probe


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
    data = shared("dng_thumb_ifd0.dng")
    with pytest.raises(DecodeUnsupportedError, match=r"raw files are not supported \(DNG\)"):
        kit.read(data)


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
