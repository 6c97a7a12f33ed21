"""Opens image files: reads the header and rejects types that varfix does not restore.

Nothing is decoded. Exceptions of the libraries on invalid data become errors of varfix here.
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
from varfix.engine.image.tiff_pages import DEVELOP, MainTiffImageFile
from varfix.engine.system.files import open_source

# Pillow's own limit is below the size of common photos and cannot be set per call;
# `limits.max_pixels` is checked here before anything is decoded.
Image.MAX_IMAGE_PIXELS = None
# Profiles of several MB exist, and some programs store their whole project in a text.
PngImagePlugin.MAX_TEXT_CHUNK = 16 << 20
PngImagePlugin.MAX_TEXT_MEMORY = MAX_METADATA

# Used instead of `Image.open`, which would open a JPEG with several images as another type. The
# format is known from the signature.
_PLUGINS: Final[dict[str, Callable[[IO[bytes]], ImageFile.ImageFile]]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
    "tiff": MainTiffImageFile,
    "avif": AvifImagePlugin.AvifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "heif": extras.open_heif,
    "jxl": extras.JxlImageFile,
}

# Pillow's modes, and the modes that they are converted to.
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

# An AVIF or HEIC file states its colors within this number of bytes.
_ITEMS_HEAD: Final = 1 << 17
# A JPEG states its coding within this number of bytes, after EXIF (at most 64 KiB).
_JPEG_HEAD: Final = 1 << 17

NOT_A_RESULT: Final = "not restored: the missing part would be gray"

# How to extract single images from a file of several, and workarounds for unsupported types.
_EXTRACTED: Final = {"frames": "`ffmpeg -i FILE %04d.png`", "pages": "`tiffsplit FILE`"}
_INSTEAD: Final = {
    "image/gif": "run 'varfix video' for an animation; save a single image as PNG",
    **dict.fromkeys(
        ("image/x-canon-cr3", "image/x-panasonic-rw2", "image/x-olympus-orf", "image/x-fuji-raf"),
        DEVELOP,
    ),
}


def probe(source: bytes | Path) -> Header:
    """Read the header of an image; decode nothing.

    Args:
        source: The bytes of the whole file, or its path.

    Raises:
        SourceReadError: The path cannot be read.
        DecodeError: As `reader.decode_image`, if the header shows the cause.
    """
    if isinstance(source, bytes):
        return _probe(source, io.BytesIO(source), len(source))
    with open_source(source) as stream:
        head = stream.read(4096)
        stream.seek(0)
        return _probe(head, stream, source.stat().st_size)


def _probe(head: bytes, stream: IO[bytes], size: int) -> Header:
    kind = identify(head)
    with translate_decode_errors(size):
        image = open_image(kind, stream)
        header = header_of(kind, image, head)
        reject(image, header, None)
        return header


def identify(data: bytes) -> str:
    """Return the format of a file, a key of `formats.FORMATS`, from its first bytes.

    Raises:
        DecodeEmptyError: There are no bytes.
        DecodeUnknownError: The format is not in `formats.FORMATS`.
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
            hint=_INSTEAD.get(kind, f"convert it to one of {names}"),
        )
    return kind


@contextmanager
def translate_decode_errors(size: int) -> Iterator[None]:
    """Convert exceptions of the libraries on invalid data to decode errors."""
    try:
        yield
    except MemoryError as error:
        raise HostMemoryError("the image does not fit in memory") from error
    except LIBRARY_ERRORS as error:
        raise _decode_error(error, size) from error


def _decode_error(error: Exception, size: int) -> DecodeError:
    text = str(error).lower()
    if "max_text" in text:
        return DecodeUnsupportedError(
            f"a text or profile inflates to more than {MAX_METADATA >> 20} MiB",
            hint="save the image again without metadata",
        )
    if "truncated" in text or isinstance(error, EOFError):
        return ends_early(size)
    return DecodeTruncatedError(f"file is damaged ({NOT_A_RESULT})")


def ends_early(size: int) -> DecodeTruncatedError:
    """Return the error for a file that ends after `size` bytes."""
    amount = f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size} bytes"
    return DecodeTruncatedError(f"file ends early after {amount} ({NOT_A_RESULT})")


def open_image(kind: str, stream: IO[bytes]) -> ImageFile.ImageFile:
    """Parse the header of a file with Pillow's plug-in for its format.

    The result cannot decode a PNG; use `open_png`.

    Raises:
        DecodeUnsupportedError: The header is valid, but Pillow does not support its type.
        EOFError: A TIFF ends before its directory.
        ValueError: The structure of the file is malformed.
    """
    check(kind, stream)
    if kind == "jpeg":
        _reject_coding(stream)
    elif kind in ("avif", "heif"):
        _reject_hdr(stream)
    elif kind == "png":
        stream = _head_of_png(stream)
    try:
        return _PLUGINS[kind](stream)
    except (SyntaxError, ValueError, NotImplementedError) as error:
        # Pillow's ways to say that it does not know a variant, besides that a file is damaged.
        if "unknown" in str(error).lower() or "unsupported" in str(error).lower():
            label = FORMATS[kind].label
            raise DecodeUnsupportedError(
                f"unsupported {label} ({error})", hint="convert it to PNG"
            ) from error
        raise


def _reject_coding(stream: IO[bytes]) -> None:
    """Reject a JPEG whose coding is not supported; name the coding.

    Arithmetic coding of one scan is supported.
    """
    # Not the whole file: a plan may check a hundred thousand files.
    coding = jpeg.unusual_coding(stream.read(_JPEG_HEAD))
    stream.seek(0)
    if coding not in (None, "arithmetic-coded"):
        raise DecodeUnsupportedError(
            f"unsupported JPEG ({coding})",
            hint="save it as a baseline 8-bit JPEG, or as PNG",
        )


def _reject_hdr(stream: IO[bytes]) -> None:
    codes = isobmff.read_items(stream.read(_ITEMS_HEAD)).cicp
    stream.seek(0)
    if codes is not None and codes[1] in cicp.HDR:
        raise DecodeUnsupportedError(
            f"HDR image ({cicp.HDR[codes[1]]}): models support standard dynamic range only",
            hint="convert it to sRGB first",
        )


def _head_of_png(stream: IO[bytes]) -> IO[bytes]:
    """Return a PNG up to its pixels, without damaged chunks that decoding does not need.

    Raises:
        DecodeUnsupportedError: The file is in Apple's own format.
        ValueError: A chunk that decoding needs is damaged.
    """
    if png.is_apple(stream.read(16)):
        raise DecodeUnsupportedError(
            "unsupported PNG (CgBI, Apple's own format)",
            hint="convert it: xcrun pngcrush -revert-iphone-optimizations FILE OUT.png",
        )
    stream.seek(0)
    return io.BytesIO(png.check_head(stream))


def open_png(data: bytes) -> ImageFile.ImageFile:
    """Decode a PNG with Pillow; `png.check_chunks` must have checked it."""
    image = PngImagePlugin.PngImageFile(io.BytesIO(data))
    image.load()  # also reads the chunks after the pixels
    return image


def header_of(kind: str, image: ImageFile.ImageFile, head: bytes) -> Header:
    """Return size, transparency and depth; `head` is the beginning of the file."""
    width, height = image.size
    # Pillow swaps width and height of a turned TIFF itself.
    if kind != "tiff" and orientation_of(image) >= 5:
        width, height = height, width
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    return Header(kind, width, height, has_alpha, _depth(kind, image, head))


def _depth(kind: str, image: ImageFile.ImageFile, head: bytes) -> int:
    """Return 8 or 16; 0 for other depths."""
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


def reject(image: ImageFile.ImageFile, header: Header, max_pixels: int | None) -> None:
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
            hint="run 'varfix video' for an animation"
            if header.format == "webp"
            else f"extract the {what}, for example with {_EXTRACTED[what]}",
        )


def _channels(image: ImageFile.ImageFile) -> int:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return len(image.getbands())
    return int(image.tag_v2.get(_SAMPLES_PER_PIXEL, 1))


def _frames(image: ImageFile.ImageFile) -> int:
    """Return the number of images in a file; smaller copies of the first image do not count."""
    return int(getattr(image, "n_frames", 1))


def orientation_of(image: ImageFile.ImageFile) -> int:
    """Return the orientation tag, 1 to 8; 1 if it is missing or invalid."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        value = image.tag_v2.get(ORIENTATION, 1)
        return value if value in range(1, 9) else 1
    if isinstance(image, extras.JxlImageFile):
        return image.orientation  # the decoder has applied the EXIF orientation
    return exif.orientation_of(exif_of(image) or b"")


def exif_of(image: ImageFile.ImageFile) -> bytes | None:
    """Return the EXIF block of the file, without prefix."""
    block = image.info.get("exif")
    return bytes(block).removeprefix(PREFIX) if block else None
