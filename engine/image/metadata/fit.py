"""Converts the metadata of an image to what the output format can store.

A warning names each part that is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from varfix.engine.formats import Format
from varfix.engine.image import cicp, png
from varfix.engine.image.decoded_image import ImageInfo
from varfix.engine.image.metadata import exif_block, iptc, resolution, tiff_tags
from varfix.engine.image.metadata.exif import ORIENTATION
from varfix.engine.image.metadata.exif_block import ASCII, BYTE, Directory, ExifBlock, Value
from varfix.engine.settings.types import OutputSettings

_DESCRIPTION: Final = 270
_XP_TITLE, _XP_COMMENT = 40091, 40092
# Keywords of PNG texts, and the EXIF tags of the same meaning.
_TEXTS: Final = {
    "Title": _XP_TITLE,
    "Description": _DESCRIPTION,
    "Author": 315,
    "Software": 305,
    "Copyright": 33432,
}
# Keywords of texts that ImageMagick writes into every file; they describe the file.
_NOISE: Final = ("date:", "exif:", "png:", "xmp:", "icc:", "Creation Time", "Comment")

# Formats with a field for the resolution.
_OWN_RESOLUTION: Final = ("jpeg", "png", "tiff", "bmp")

# The metadata, and a sentence for each part that is lost.
_StepResult = tuple[ImageInfo, list[str]]


def fit_metadata(info: ImageInfo, form: Format, options: OutputSettings) -> _StepResult:
    """Reduce metadata to what the policy and the format allow.

    Returns:
        The metadata to store, and a sentence for each part that the format cannot store.
    """
    if options.metadata == "none":
        return _without_metadata(info), []
    if options.metadata == "safe":
        info = _safe(info)
    warnings: list[str] = []
    for step in _STEPS:
        info, lost = step(info, form)
        warnings += lost
    return info, warnings


def _without_metadata(info: ImageInfo) -> ImageInfo:
    return ImageInfo(info.format, info.mode, info.depth, lossless=info.lossless, jpeg=info.jpeg)


def _safe(info: ImageInfo) -> ImageInfo:
    """Keep only colors and resolution."""
    colors = tuple(chunk for chunk in info.chunks if chunk[0] in png.COLOR)
    return replace(info, exif=None, xmp=None, resources=None, comment=None, chunks=colors)


def _colors(info: ImageInfo, form: Format) -> _StepResult:
    lost = []
    if form.name != "png":
        stated = {kind: payload for kind, payload in info.chunks if kind in png.COLOR}
        codes = cicp.codes_of(stated)
        if codes is not None and codes[1] in cicp.HDR and info.icc_is_implied is False:
            lost.append(f"HDR colors ({cicp.HDR[codes[1]]}) look pale: {form.label} has no cICP")
    if info.icc and not form.icc:
        # A JPEG XL states that it is sRGB; the writer warns about other colors.
        if form.name != "jxl":
            lost.append(f"{form.label} cannot store a color profile: it is not kept")
        info = replace(info, icc=None)
    if info.icc and info.icc[16:20] == b"GRAY" and form.name in ("webp", "avif", "heif"):
        lost.append(f"the gray profile does not fit a color {form.label}: it is not kept")
        info = replace(info, icc=None)
    return info, lost


def _lossless(info: ImageInfo, form: Format) -> _StepResult:
    """Warn that Pillow cannot write an AVIF in RGB."""
    if info.lossless and info.format == form.name == "avif":
        return info, ["a lossless AVIF is stored with quality 100: values differ by up to 3 of 255"]
    return info, []


def _tiff_tags(info: ImageInfo, form: Format) -> _StepResult:
    """Adapt the EXIF block of a result that is a TIFF or has a TIFF as source."""
    if info.exif is None:
        return info, []
    try:
        if form.name == "tiff":
            return info, list(tiff_tags.for_tiff(exif_block.parse(info.exif))[1])
        if info.format != "tiff":
            return info, []
        foreign, lost = tiff_tags.foreign_tags(info.exif)
        exif = exif_block.without_tags(info.exif, foreign)
        return replace(info, exif=None if _is_empty(exif) else exif), list(lost)
    except ValueError:
        return replace(info, exif=None), ["the EXIF block is damaged and was not kept"]


def _is_empty(exif: bytes) -> bool:
    block = exif_block.parse(exif)
    return not (block.main.keys() - {ORIENTATION} or block.exif or block.gps)


def _comment(info: ImageInfo, form: Format) -> _StepResult:
    """Store a comment as the format does: as a comment, as a PNG text, or in EXIF."""
    words = _words(info.comment) if info.comment else png.comment_in(info.chunks)
    if not words or form.name == "png":
        return _with_comment_chunk(info, words, form), []
    if form.name == "jpeg":
        return replace(info, comment=info.comment or words.encode("utf-8")), []
    info = replace(info, comment=None)
    if not form.exif:
        return info, [f"{form.label} cannot store a comment: it is not kept"]
    tag = _XP_COMMENT if _has(info.exif, _DESCRIPTION) else _DESCRIPTION
    return _with_tags(info, {tag: words}), []


def _with_comment_chunk(info: ImageInfo, words: str | None, form: Format) -> ImageInfo:
    if form.name == "png" and words and png.comment_in(info.chunks) is None:
        info = replace(info, chunks=(*info.chunks, png.comment_chunk(words)))
    return replace(info, comment=None)


def _words(comment: bytes) -> str:
    """Decode a comment: most programs write UTF-8, the others Latin-1."""
    plain = comment.rstrip(b"\x00")
    try:
        return plain.decode("utf-8")
    except UnicodeDecodeError:
        return plain.decode("latin-1")


def _texts(info: ImageInfo, form: Format) -> _StepResult:
    """Store the texts of a PNG in EXIF."""
    if form.name == "png":
        return info, []
    texts = png.texts_in(info.chunks)
    texts = {key: words for key, words in texts.items() if not key.startswith(_NOISE)}
    tags: dict[int, str] = {}
    lost = []
    for key, words in texts.items():
        tag = _TEXTS.get(key)
        if tag is None or not form.exif:
            lost.append(key)
        elif not _has(info.exif, tag):
            tags[tag] = words
    info = _with_tags(info, tags)
    if not lost:
        return info, []
    return info, [f"PNG texts are not kept: {', '.join(sorted(lost))}"]


def _has(exif: bytes | None, tag: int) -> bool:
    return exif is not None and tag in exif_block.parse(exif).main


def _with_tags(info: ImageInfo, tags: dict[int, str]) -> ImageInfo:
    """Add texts to the EXIF block; create it if there is none."""
    return _with_values(info, {tag: _value(tag, words) for tag, words in tags.items()}, "<")


def _with_values(info: ImageInfo, tags: Directory, order: str) -> ImageInfo:
    """Add tags to the EXIF block; create it in byte order `order` if there is none."""
    exif = info.exif
    for tag, value in tags.items():
        if exif is None:
            exif = exif_block.pack(ExifBlock(order, {tag: value}))
        else:
            exif = exif_block.with_tag(exif, tag, value)
    return replace(info, exif=exif)


def _value(tag: int, words: str) -> Value:
    """Encode a text: in UTF-16 for Windows tags, in UTF-8 for others."""
    if tag in (_XP_TITLE, _XP_COMMENT):
        data = words.encode("utf-16-le", "surrogatepass") + bytes(2)
        return Value(BYTE, len(data), data)
    data = words.encode("utf-8") + b"\x00"
    return Value(ASCII, len(data), data)


def _exif(info: ImageInfo, form: Format) -> _StepResult:
    if form.exif:
        if info.exif and form.name == "avif":
            # Pillow would rebuild the block to remove this tag; its value is 1.
            return replace(info, exif=exif_block.without_tags(info.exif, {ORIENTATION})), []
        return info, []
    lost = [f"{form.label} cannot store EXIF or XMP: they are not kept"]
    return replace(info, exif=None, xmp=None), lost if info.exif or info.xmp else []


def _resolution(info: ImageInfo, form: Format) -> _StepResult:
    """Adapt the resolution; store it in EXIF for a format that has no field of its own."""
    stated = info.resolution
    if stated is None:
        return info, []
    # A JPEG in CMYK has no JFIF segment.
    in_exif = form.name not in _OWN_RESOLUTION or (form.name == "jpeg" and info.mode == "cmyk")
    if stated.unit == "none" and (in_exif or form.name == "bmp"):
        square = stated.across == stated.down
        lost = [f"{form.label} cannot store pixels that are not square: their shape is not kept"]
        return replace(info, resolution=None), [] if square else lost
    if in_exif and not _has(info.exif, resolution.ACROSS):
        order = exif_block.parse(info.exif).order if info.exif else "<"
        return _with_values(info, resolution.exif_tags(stated, order), order), []
    return info, []


def _resources(info: ImageInfo, form: Format) -> _StepResult:
    if info.resources is None or form.iptc:
        return info, []
    lost = [f"{form.label} cannot store IPTC: it is not kept"] if info.iptc else []
    if iptc.has_paths(info.resources):
        lost.append(f"{form.label} cannot store clipping paths: they are not kept")
    return replace(info, resources=None), lost


_STEPS: Final[tuple[Callable[[ImageInfo, Format], _StepResult], ...]] = (
    _colors,
    _lossless,
    _tiff_tags,
    _texts,
    _comment,
    _exif,
    _resolution,
    _resources,
)
