"""Opening an image file: what it is, and whether varfix restores its kind, before any decoding.

Also the place where the libraries' exceptions on bad data become varfix's own.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from varfix.engine.errors import (
    DecodeEmptyError,
    DecodeError,
    DecodeTruncatedError,
    DecodeUnknownError,
    DecodeUnsupportedError,
    HostMemoryError,
)
from varfix.engine.formats import FORMATS, Header, sniff
from varfix.engine.image import cicp, isobmff, jpeg, png
from varfix.engine.image import heif_jxl as extras
from varfix.engine.image.bomb_guard import MAX_METADATA, check
from varfix.engine.image.metadata import exif
from varfix.engine.image.metadata.exif import ORIENTATION
from varfix.engine.image.metadata.exif_block import PREFIX
from varfix.engine.image.tiff_pages import DEVELOP, TiffMainImageFile
from varfix.engine.system.files import open_source

# Pillow's own guard is far below photographs of today and cannot be set per call;
# `limits.max_pixels` is checked here before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
# Profiles of several MB exist, and so do programs that keep their whole project in a text.
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20
PngImagePlugin.MAX_TEXT_MEMORY = MAX_METADATA

# By hand instead of `Image.open`: the format is known from the signature, and a phone's
# several-image JPEG is read as the JPEG it also is.
_PLUGINS: Final[dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "tiff": TiffMainImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "heif": extras.open_heif,
    "jxl": extras.JxlImageFile,
}

# Pillow's modes, and what they are read as.
MODES: Final = {
    "1": "L",
    "L": "L",
    "LX": "L",
    "LA": "LA",
    "La": "LA",
    "P": "RGB",
    "PA": "RGBA",
    "RGB": "RGB",
    "RGBA": "RGBA",
    "RGBX": "RGB",
    "RGBa": "RGBA",
    "CMYK": "CMYK",
    "YCbCr": "RGB",
    "I;16": "L",
    "I;16B": "L",
}

LIBRARY_ERRORS: Final = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)

_BITS_PER_SAMPLE: Final = 258
_SAMPLES_PER_PIXEL: Final = 277
_SAMPLE_FORMAT: Final = 339
_UNSIGNED: Final = 1
_REDUCED: Final = 254

# Bytes in which an AVIF or HEIC file tells its colors.
_ITEMS_HEAD: Final = 1 << 17
# Bytes in which a JPEG tells its coding, behind EXIF and its thumbnail (64 KiB at most).
_JPEG_HEAD: Final = 1 << 17

NOT_A_RESULT: Final = "not restored: the missing part would be gray"

# How to extract single images from a file of several, and workarounds for unsupported types.
_EXTRACTED: Final = {"frames": "`ffmpeg -i FILE %04d.png`", "pages": "`tiffsplit FILE`"}
_INSTEAD: Final = {
    "image/gif": "save it as PNG; extract an animation with `ffmpeg -i FILE %04d.png`",
    **dict.fromkeys(
        ("image/x-canon-cr3", "image/x-panasonic-rw2", "image/x-olympus-orf", "image/x-fuji-raf"),
        DEVELOP,
    ),
}


def probe(source: bytes | Path) -> Header:
    """Read what the header says, decoding nothing.

    Args:
        source: The whole file's bytes, or its path.

    Raises:
        SourceReadError: The path cannot be read.
        DecodeError: As `image_read.decode_image`, as far as the header shows it.
    """
    if isinstance(source, bytes):
        return _probe(source, io.BytesIO(source), len(source))
    with open_source(source) as stream:
        head = stream.read(4096)
        stream.seek(0)
        return _probe(head, stream, source.stat().st_size)


def _probe(head: bytes, stream: IO[bytes], size: int) -> Header:
    kind = identify(head)
    with translated(size):
        image = open_image(kind, stream)
        header = header_of(kind, image, head)
        refuse(image, header, None)
        return header


def identify(data: bytes) -> str:
    """Return the format, a key of `formats.FORMATS`, that a file's first bytes promise.

    Raises:
        DecodeEmptyError: There are no bytes.
        DecodeUnknownError: None of the formats.
        DecodeUnsupportedError: A format whose package is not installed.
    """
    if not data:
        raise DecodeEmptyError("empty file (0 bytes)")
    kind = sniff(data)
    if kind in FORMATS and not FORMATS[kind].available:
        form = FORMATS[kind]
        raise DecodeUnsupportedError(f"{form.label} cannot be read here", hint=form.remedy)
    if kind not in FORMATS:
        names = ", ".join(form.label for form in FORMATS.values() if form.available)
        raise DecodeUnknownError(
            f"not an image varfix can read ({kind})",
            hint=_INSTEAD.get(kind, f"varfix reads {names}."),
        )
    return kind


@contextmanager
def translated(size: int) -> Iterator[None]:
    """Turn what the libraries raise on bad data into decode errors."""
    try:
        yield
    except MemoryError as error:
        raise HostMemoryError("the image does not fit in memory") from error
    except LIBRARY_ERRORS as error:
        raise _damaged(error, size) from error


def _damaged(error: Exception, size: int) -> DecodeError:
    text = str(error).lower()
    if "max_text" in text:
        return DecodeUnsupportedError(
            "a text or profile inflates without end",
            hint="save the image again without metadata",
        )
    if "truncated" in text or isinstance(error, EOFError):
        return ends_early(size)
    return DecodeTruncatedError(f"file is damaged ({NOT_A_RESULT})")


def ends_early(size: int) -> DecodeTruncatedError:
    """Build the error for a file of which only `size` bytes are there."""
    amount = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size} bytes"
    return DecodeTruncatedError(f"file ends early after {amount} ({NOT_A_RESULT})")


def open_image(kind: str, stream: IO[bytes]) -> ImageFile.ImageFile:
    """Let Pillow parse a file's header as the format it was identified as.

    A PNG cannot be decoded by what is returned, see `open_png`.

    Raises:
        DecodeUnsupportedError: The header is valid, but Pillow does not support its type.
        EOFError: A TIFF ends before its directory.
        ValueError: Its structure is malformed.
    """
    check(kind, stream)
    if kind == "jpeg":
        _refuse_coding(stream)
    elif kind in ("avif", "heif"):
        _refuse_hdr(stream)
    elif kind == "png":
        stream = _head_of_png(stream)
    try:
        return _PLUGINS[kind](stream)
    except (SyntaxError, ValueError, NotImplementedError) as error:
        if "unknown" in str(error).lower() or "unsupported" in str(error).lower():
            label = FORMATS[kind].label
            raise DecodeUnsupportedError(
                f"unsupported {label} ({error})", hint="convert it to PNG"
            ) from error
        raise


def _refuse_coding(stream: IO[bytes]) -> None:
    """Reject a JPEG whose coding is not supported; name the coding.

    Arithmetic coding of one scan is supported.
    """
    # Not the whole file: a plan may check a hundred thousand files.
    oddity = jpeg.oddity(stream.read(_JPEG_HEAD))
    stream.seek(0)
    if oddity not in (None, "arithmetic-coded"):
        raise DecodeUnsupportedError(
            f"unsupported JPEG ({oddity})",
            hint="save it as a baseline 8-bit JPEG, or as PNG",
        )


def _refuse_hdr(stream: IO[bytes]) -> None:
    codes = isobmff.read_items(stream.read(_ITEMS_HEAD)).cicp
    stream.seek(0)
    if codes is not None and codes[1] in cicp.HDR:
        raise DecodeUnsupportedError(
            f"is HDR ({cicp.HDR[codes[1]]}): models know standard range only, and would shift its"
            " tones",
            hint="convert it to sRGB first",
        )


def _head_of_png(stream: IO[bytes]) -> IO[bytes]:
    """Return a PNG up to its pixels, so that Pillow opens it although what nobody needs is damaged.

    Raises:
        DecodeUnsupportedError: It is in Apple's own format.
        ValueError: A chunk that decoding needs is damaged.
    """
    if png.is_apple(stream.read(16)):
        raise DecodeUnsupportedError(
            "a PNG in Apple's own format (CgBI) cannot be read",
            hint="convert it back with xcrun pngcrush -revert-iphone-optimizations FILE OUT.png",
        )
    stream.seek(0)
    return io.BytesIO(png.checked_head(stream))


def open_png(data: bytes) -> ImageFile.ImageFile:
    """Let Pillow decode a PNG every chunk of which has been checked."""
    image = PngImagePlugin.PngImageFile(io.BytesIO(data))
    image.load()  # only then what stands behind the pixels is known
    return image


def header_of(kind: str, image: ImageFile.ImageFile, head: bytes) -> Header:
    """Gather what planning needs to know; `head` is the file's beginning."""
    width, height = image.size
    # Pillow has already swapped the sides of a turned TIFF.
    if kind != "tiff" and orientation_of(image) >= 5:
        width, height = height, width
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return Header(kind, width, height, has_alpha, _depth(kind, image, head))


def _depth(kind: str, image: ImageFile.ImageFile, head: bytes) -> int:
    """Return 8 or 16, or 0 for samples that are neither."""
    if kind == "png":
        return 16 if head[24] == 16 else 8
    if kind != "tiff":
        return 8
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    bits = set(tags.get(_BITS_PER_SAMPLE, (1,)))
    plain = set(tags.get(_SAMPLE_FORMAT, (_UNSIGNED,))) == {_UNSIGNED}
    if not plain or (max(bits) > 8 and bits != {16}):
        return 0
    return 16 if bits == {16} else 8


def refuse(image: ImageFile.ImageFile, header: Header, max_pixels: int | None) -> None:
    """Reject images that varfix does not restore.

    Args:
        image: The opened file, not decoded.
        header: Its header; a depth of 0 means an unsupported depth.
        max_pixels: Limit of pixels; None for planning, where the decoder checks the size.

    Raises:
        DecodeUnsupportedError: Too many pixels, unsupported depth or colors, or several images.
    """
    pixels = header.width * header.height
    if max_pixels is not None and pixels > max_pixels:
        raise DecodeUnsupportedError(
            f"{header.width} x {header.height} is {pixels / 1e6:.0f} megapixels, "
            f"over the limit of {max_pixels / 1e6:g}",
            hint=f"if the file is trusted, add --set limits.max_pixels={pixels}",
        )
    if header.depth == 0:
        raise DecodeUnsupportedError(
            "unsupported sample depth", hint="convert the image to 8 or 16 bits per channel"
        )
    if image.mode not in MODES:
        raise DecodeUnsupportedError(
            f"unsupported color mode {image.mode}", hint="convert the image to RGB"
        )
    if image.mode == "CMYK" and _channels(image) > 4:
        raise DecodeUnsupportedError(
            "CMYK with transparency or spot colors is not supported",
            hint="flatten the image, or convert it to RGB",
        )
    frames = _frames(image)
    if frames > 1:
        what = "pages" if header.format == "tiff" else "frames"
        raise DecodeUnsupportedError(
            f"has {frames} {what} (only single images are supported)",
            hint=f"extract the {what}, for example with {_EXTRACTED[what]}",
        )


def _channels(image: ImageFile.ImageFile) -> int:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return len(image.getbands())
    return int(image.tag_v2.get(_SAMPLES_PER_PIXEL, 1))


def _frames(image: ImageFile.ImageFile) -> int:
    """Count the images in a file, smaller copies of the first one left out."""
    return int(getattr(image, "n_frames", 1))


def orientation_of(image: ImageFile.ImageFile) -> int:
    """Return the orientation tag, 1 if there is none that means anything."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value = image.tag_v2.get(ORIENTATION, 1)
        return value if value in range(1, 9) else 1
    if isinstance(image, extras.JxlImageFile):
        return image.orientation  # what EXIF says has been applied
    return exif.orientation_of(exif_of(image) or b"")


def exif_of(image: ImageFile.ImageFile) -> bytes | None:
    """Return the EXIF block without prefix, as the file holds it."""
    block = image.info.get("exif")
    return bytes(block).removeprefix(PREFIX) if block else None
