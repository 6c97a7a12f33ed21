"""Reads the metadata of an image file, for the upright image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from PIL import ImageFile

from varfix.engine.formats import Header
from varfix.engine.image import cicp, isobmff, jpeg, png, webp
from varfix.engine.image.decoded_image import ImageInfo
from varfix.engine.image.header import LIBRARY_ERRORS, MODES, orientation_of
from varfix.engine.image.heif_jxl import JxlImageFile
from varfix.engine.image.jpeg_coding import coding_of
from varfix.engine.image.metadata import exif_block, iptc, resolution, tiff_tags, xmp
from varfix.engine.image.metadata.exif import upright_exif
from varfix.engine.image.metadata.exif_block import PREFIX
from varfix.engine.image.metadata.resolution import Resolution
from varfix.engine.image.tiff_pages import MainTiffImageFile

# Color types of PNG without and with alpha.
_PNG_GRAY: Final = (0, 4)

_APPENDED: Final = "is not kept: it is appended to the image"


@dataclass(frozen=True)
class _MetadataBlocks:
    """Metadata of a file, as stored."""

    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    resources: bytes | None = None
    iptc: bytes | None = None
    comment: bytes | None = None
    warnings: tuple[str, ...] = ()


def info_of(image: ImageFile.ImageFile, header: Header, data: bytes) -> ImageInfo:
    """Read the format and the metadata of an image.

    Args:
        image: Image opened by Pillow; a JPEG XL must also be decoded.
        header: Header of the same file.
        data: The whole file.
    """
    raw = _read_blocks(image, header, data)
    turned = orientation_of(image) > 1
    warnings = [*raw.warnings, *_decoding_losses(image, header, data)]
    exif, text = _upright_exif(raw.exif, header, turned=turned)
    warnings += [text] if text else []
    packet, pointers = xmp.without_pointers(xmp.upright(raw.xmp)) if raw.xmp else (None, ())
    warnings += [f"{what} {_APPENDED}" for what in pointers]
    if not pointers:
        warnings += _appended_data(header.format, data)
    resources, lost = iptc.kept(raw.resources, raw.iptc, turned=turned)
    if lost:
        warnings.append("paths and guides are not kept: the image was turned")
    chunks = png.kept_chunks(data) if header.format == "png" else ()
    warnings += _hdr_losses(chunks)
    mode = _mode(image, header, data)
    implied = None if raw.icc else _implied_profile(header.format, mode, data, chunks)
    return ImageInfo(
        format=header.format,
        mode=mode,
        depth=header.depth,
        icc=raw.icc or implied,
        icc_is_implied=implied is not None,
        exif=exif,
        xmp=packet,
        resources=resources,
        comment=raw.comment,
        resolution=_resolution(image, header, data, raw.exif),
        lossless=_is_lossless(header.format, data),
        jpeg=coding_of(image, data, turned=orientation_of(image) >= 5),
        chunks=chunks,
        warnings=tuple(warnings),
    )


def _read_blocks(image: ImageFile.ImageFile, header: Header, data: bytes) -> _MetadataBlocks:
    packet = image.info.get("xmp")
    packet = packet.encode() if isinstance(packet, str) else bytes(packet or b"")
    icc = image.info.get("icc_profile") or None
    if isinstance(image, MainTiffImageFile):
        return _read_tiff_blocks(image, data, icc)
    block = image.info.get("exif")
    raw = _MetadataBlocks(bytes(block).removeprefix(PREFIX) if block else None, packet or None, icc)
    return _read_jpeg_blocks(raw, data) if header.format == "jpeg" else raw


def _read_tiff_blocks(image: MainTiffImageFile, data: bytes, icc: bytes | None) -> _MetadataBlocks:
    found = tiff_tags.read(data, [image.location.first, image.location.offset])
    return _MetadataBlocks(
        found.exif,
        found.xmp,
        icc or found.icc,
        found.resources,
        found.iptc,
        warnings=found.warnings,
    )


def _read_jpeg_blocks(raw: _MetadataBlocks, data: bytes) -> _MetadataBlocks:
    packet, warnings = raw.xmp, raw.warnings
    name = xmp.extension_named_in(packet) if packet else None
    if packet and name:
        try:
            packet = xmp.merge(packet, jpeg.extended_xmp_of(data)[name])
        except (KeyError, ValueError):
            packet = xmp.without_extension(packet)
            warnings = (*warnings, "the extended XMP is damaged and was not kept")
    comments = jpeg.comments_of(data)
    return replace(
        raw,
        xmp=packet,
        resources=jpeg.resources_of(data) or None,
        comment=b"\n".join(comments) or None,
        warnings=warnings,
    )


def _upright_exif(
    block: bytes | None, header: Header, *, turned: bool
) -> tuple[bytes | None, str | None]:
    """Return EXIF for the upright image, and a warning if any of it is lost."""
    if block is None:
        return None, None
    lost = None
    try:
        if header.format == "tiff" and turned:
            placed, block = block, exif_block.without_tags(block, tiff_tags.GEO)
            lost = None if placed == block else "the georeference is not kept: the image was turned"
        return upright_exif(block, header.width, header.height), lost
    except LIBRARY_ERRORS:
        return None, "the EXIF block is damaged and was not kept"


def _appended_data(kind: str, data: bytes) -> list[str]:
    """Return a warning for data that is appended to an image and not named in its XMP."""
    if kind == "heif":
        return [f"the video of a motion photo {_APPENDED}"] if isobmff.has_video(data) else []
    if kind != "jpeg":
        return []
    end = jpeg.end_of_first_image(data)
    behind = len(data[end:].strip(b"\x00\n\r ")) if end else 0
    if jpeg.has_several_images(data) and behind:
        return [f"further images in the file are not kept ({behind} bytes)"]
    return [f"data after the image is not kept ({behind} bytes)"] if behind else []


def _implied_profile(
    kind: str, mode: str, data: bytes, chunks: tuple[png.Chunk, ...]
) -> bytes | None:
    """Return a profile for the color metadata of a file without a profile."""
    gray = mode == "gray"
    if kind == "png":
        stated = {name: payload for name, payload in chunks if name in png.COLOR}
        return cicp.profile_of_chunks(stated, gray=gray)
    if kind in ("avif", "heif"):
        codes = isobmff.read_items(data).cicp
        return cicp.profile_of_codes(*codes, gray=gray) if codes else None
    return None


def _decoding_losses(image: ImageFile.ImageFile, header: Header, data: bytes) -> list[str]:
    if header.format == "avif" and _is_deep_avif(data):
        return ["a 10-bit or 12-bit AVIF is restored at 8 bits"]
    if header.format == "heif":
        return _heif_losses(image)
    if isinstance(image, JxlImageFile) and image.packed:
        return ["compressed metadata of a JPEG XL is not kept"]
    return []


def _is_lossless(kind: str, data: bytes) -> bool:
    """Return whether an image is stored without loss, as far as its container says."""
    if kind == "webp":
        return webp.is_lossless(data)
    # Colors that are stored as RGB compress badly; it is done to lose nothing.
    return kind == "avif" and isobmff.read_items(data).matrix == isobmff.RGB_MATRIX


def _is_deep_avif(data: bytes) -> bool:
    """Read the two depth flags of the codec configuration box (AV1-ISOBMFF, 2.3.3)."""
    at = data.find(b"av1C")
    return at >= 0 and len(data) > at + 6 and bool(data[at + 6] & 0x60)


def _heif_losses(image: ImageFile.ImageFile) -> list[str]:
    losses = []
    bits = image.info.get("bit_depth", 8)
    if bits > 8:
        losses.append(f"a {bits}-bit HEIC is restored at 8 bits")
    if image.info.get("aux") or image.info.get("depth_images"):
        losses.append("auxiliary images (depth, HDR gain map) are not kept")
    return losses


def _hdr_losses(chunks: tuple[png.Chunk, ...]) -> list[str]:
    """Return a warning for an HDR PNG; HDR AVIF and HEIC are refused: no result would keep it."""
    codes = cicp.codes_of(dict(chunks))
    if codes is None or codes[1] not in cicp.HDR:
        return []
    name = cicp.HDR[codes[1]]
    return [f"HDR image ({name}) is restored as if it were SDR, for which the models are made"]


def _mode(image: ImageFile.ImageFile, header: Header, data: bytes) -> str:
    if image.mode == "CMYK":
        return "cmyk"
    return "gray" if _is_gray(image, header, data) else "rgb"


def _is_gray(image: ImageFile.ImageFile, header: Header, data: bytes) -> bool:
    # Pillow widens 16-bit gray with alpha to RGBA.
    deep_png = header.format == "png" and header.depth == 16
    return data[25] in _PNG_GRAY if deep_png else MODES[image.mode] in ("L", "LA")


def _resolution(
    image: ImageFile.ImageFile, header: Header, data: bytes, exif: bytes | None
) -> Resolution | None:
    """Return the resolution that a file states, for the upright image."""
    if isinstance(image, MainTiffImageFile):
        found = resolution.read_tiff(data, image.location.offset)
    else:
        found = resolution.read(header.format, data, exif)
    return found.turned if found and orientation_of(image) >= 5 else found
