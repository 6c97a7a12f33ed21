"""Metadata of image files: EXIF, XMP, IPTC and TIFF tags."""
