"""Pictures in and out of files: the one place the rest of varfix imports this from."""

from varfix.engine.formats import Header
from varfix.engine.image_header import probe
from varfix.engine.image_read import has_transparency, read_picture
from varfix.engine.image_write import Encoded, encode_picture, write_picture
from varfix.engine.picture import Picture, PictureInfo, replace_pixels

__all__ = [
    "Encoded",
    "Header",
    "Picture",
    "PictureInfo",
    "encode_picture",
    "has_transparency",
    "probe",
    "read_picture",
    "replace_pixels",
    "write_picture",
]
