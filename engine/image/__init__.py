"""Reads and writes image files; only this package uses tifffile and the Pillow plug-ins."""
