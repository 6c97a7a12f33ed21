"""Channels beside color and alpha survive in a TIFF, or a warning says that they do not."""

import io
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from support import images as kit
from support.tiffs import noise, tiff

from varfix.engine.errors import DecodeUnsupportedError
from varfix.engine.image.writer import encode_image

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
