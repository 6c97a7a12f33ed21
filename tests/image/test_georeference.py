"""The georeference of a map survives, or a warning says that it does not."""

import io

import pytest
import tifffile
from support import images as kit
from support.tiffs import noise

from varfix.engine.image.writer import encode_image

GEO = [
    (33550, 12, 3, (0.5, 0.5, 0.0), True),
    (33922, 12, 6, (0.0, 0.0, 0.0, 440720.0, 3751320.0, 0.0), True),
    (34735, 3, 8, (1, 1, 1, 1, 1024, 0, 1, 1), True),
    (34737, 2, 5, b"WGS|\x00", True),
    (42113, 2, 6, b"-9999\x00", True),
]


def geo_tiff(order="<", orientation=1):
    out = io.BytesIO()
    tags = [*GEO, (274, 3, 1, orientation, True)]
    tifffile.imwrite(out, noise(3), photometric="rgb", byteorder=order, extratags=tags)
    return out.getvalue()


@pytest.mark.parametrize("order", "<>")
def test_geotiff_tags_are_kept(order):
    encoded = encode_image(kit.read(geo_tiff(order)), "keep", kit.KEEP)
    with tifffile.TiffFile(io.BytesIO(encoded.data)) as file:
        tags = file.pages[0].tags
        assert {code: tags[code].value for code, *_ in GEO} == {
            code: value.rstrip(b"\x00").decode() if isinstance(value, bytes) else value
            for code, _kind, _count, value, _once in GEO
        }
    assert encoded.warnings == ()


@pytest.mark.parametrize("fmt", ["jpeg", "png", "webp", "avif"])
def test_a_georeference_that_a_format_cannot_hold_is_a_warning(fmt):
    encoded = encode_image(kit.read(geo_tiff()), fmt, kit.KEEP)
    assert any("georeference" in text for text in encoded.warnings)
    assert 33922 not in kit.opened(encoded.data).getexif()


def test_a_georeference_does_not_survive_a_turn():
    image = kit.read(geo_tiff(orientation=6))
    assert any("georeference" in text for text in image.info.warnings)
    with tifffile.TiffFile(io.BytesIO(encode_image(image, "keep", kit.KEEP).data)) as file:
        assert 33922 not in file.pages[0].tags
