"""What image files say besides their pixels: EXIF, XMP, IPTC, TIFF tags."""
