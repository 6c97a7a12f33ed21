"""Image files in and out; tifffile and the Pillow plug-ins are used only here."""
