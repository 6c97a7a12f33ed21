"""One image through a restorer: tiles, blending, prior, whole-image tone."""
