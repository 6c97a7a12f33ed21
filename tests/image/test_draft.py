"""A draft is the image, smaller: upright, in sRGB, and refused where the image is."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from varfix.engine.errors import DecodeEmptyError, DecodeTruncatedError, DecodeUnsupportedError
from varfix.engine.image.reader import decode_draft, decode_image
from varfix.engine.restoration.prior_input import thumbnail

LIMIT = 10**8


def scenery(width=1600, height=1200):
    """Smooth shapes and colors, with a light from the left and a dark corner."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    red = 255 * x / width
    green = 127 + 100 * np.sin(x / 70) * np.cos(y / 50)
    blue = 255 * (y / height) ** 2
    return Image.fromarray(np.stack([red, green, blue], 2).clip(0, 255).astype(np.uint8))


def saved(image, kind="JPEG", **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def alike(data, side=256):
    draft = decode_draft(data, max_pixels=LIMIT, side=2 * side)
    full = decode_image(data, max_pixels=LIMIT).pixels
    assert (draft.height, draft.width) == full.shape[:2]
    difference = np.abs(thumbnail(draft.pixels, side) - thumbnail(full, side))
    assert difference.mean() < 0.5 / 255
    assert difference.max() < 6 / 255
    return draft


def test_a_large_jpeg_is_decoded_smaller_and_looks_the_same():
    draft = alike(saved(scenery(), quality=92))
    assert draft.pixels.shape == (600, 800, 3)
    assert (draft.width, draft.height) == (1600, 1200)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_pieces_are_cut_at_full_size(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(scenery(), kind, exif=exif)

    def corners(image):
        return np.stack([image[:64, :64], image[-64:, -64:]])

    draft = decode_draft(data, max_pixels=LIMIT, side=256, cut=corners)
    full = decode_image(data, max_pixels=LIMIT).pixels
    np.testing.assert_array_equal(draft.pieces, corners(full))
    shrunk = np.abs(thumbnail(draft.pixels, 128) - thumbnail(full, 128))
    assert shrunk.max() < 2 / 255
    if kind == "JPEG":
        assert draft.pixels.shape == (400, 300, 3)  # turned, and a quarter of its size


def test_it_is_never_smaller_than_what_was_wished_for():
    data = saved(scenery(1600, 520))
    assert alike(data).pixels.shape == (520, 1600, 3)
    assert decode_draft(data, max_pixels=LIMIT, side=65).pixels.shape == (65, 200, 3)


def test_a_turned_jpeg_is_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    draft = alike(saved(scenery(), exif=exif))
    assert (draft.width, draft.height) == (1200, 1600)
    assert draft.pixels.shape == (800, 600, 3)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_gray_and_cmyk_are_rgb(mode):
    assert alike(saved(scenery().convert(mode))).pixels.shape == (600, 800, 3)


def test_colors_of_a_profile_are_srgb():
    # A profile with red and blue exchanged is as far from sRGB as can be.
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = lab.replace(b"rXYZ", b"tmpX").replace(b"bXYZ", b"rXYZ").replace(b"tmpX", b"bXYZ")
    data = saved(scenery(), icc_profile=swapped)
    plain = decode_draft(saved(scenery()), max_pixels=LIMIT, side=512).pixels
    assert np.abs(alike(data).pixels - plain[..., ::-1]).mean() < 3 / 255


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_decoded_in_full(kind):
    assert alike(saved(scenery(), kind)).pixels.shape == (1200, 1600, 3)


def test_what_cannot_be_restored_cannot_be_judged():
    data = saved(scenery())
    with pytest.raises(DecodeEmptyError):
        decode_draft(b"", max_pixels=LIMIT, side=64)
    with pytest.raises(DecodeTruncatedError):
        decode_draft(data[: len(data) // 2], max_pixels=LIMIT, side=64)
    with pytest.raises(DecodeUnsupportedError, match="megapixels"):
        decode_draft(data, max_pixels=1000, side=64)
