"""File formats as data: names, limits, signatures.

No imaging library is imported, so that planning a run and printing help are fast.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePath
from typing import Final

from varfix.engine.errors import AlphaLostError, FormatLimitError, PlanError


@dataclass(frozen=True)
class Format:
    """Properties of a file format.

    Attributes:
        name: Key of `FORMATS`.
        label: Name in messages.
        extensions: Extensions; the first is used for new files.
        max_side: Largest width or height in pixels.
        alpha: Whether transparency is kept.
        alpha_is_rare: Whether few programs support its transparency; the image is then blended with
            a background color if the settings contain one.
        depths: Bits per channel that can be stored.
        icc: Whether a color profile is kept.
        exif: Whether EXIF and XMP are kept.
        cmyk: Whether CMYK can be stored.
        iptc: Whether an IPTC record is kept.
        module: Import name of the optional package that reads and writes it; empty if none is
            needed.
    """

    name: str
    label: str
    extensions: tuple[str, ...]
    max_side: int
    alpha: bool = True
    alpha_is_rare: bool = False
    depths: tuple[int, ...] = (8,)
    icc: bool = True
    exif: bool = True
    cmyk: bool = False
    iptc: bool = False
    module: str = ""

    @property
    def available(self) -> bool:
        """Whether this installation reads and writes the format."""
        return not self.module or find_spec(self.module) is not None

    @property
    def remedy(self) -> str:
        """A hint that makes the format available."""
        return f'install it: pip install "varfix[{self.name}]"'


FORMATS: Final[dict[str, Format]] = {
    # limit of libjpeg; the format itself allows 65535
    "jpeg": Format(
        "jpeg",
        "JPEG",
        (".jpg", ".jpeg", ".jpe", ".jfif"),
        65500,
        alpha=False,
        cmyk=True,
        iptc=True,
    ),
    "png": Format("png", "PNG", (".png",), 2**31 - 1, depths=(8, 16)),
    "webp": Format("webp", "WebP", (".webp",), 16383),
    "tiff": Format(
        "tiff", "TIFF", (".tif", ".tiff"), 2**31 - 1, depths=(8, 16), cmyk=True, iptc=True
    ),
    "avif": Format("avif", "AVIF", (".avif",), 65536),
    "bmp": Format(
        "bmp", "BMP", (".bmp", ".dib"), 2**31 - 1, alpha_is_rare=True, icc=False, exif=False
    ),
    "heif": Format("heif", "HEIC", (".heic", ".heif", ".hif"), 16384, module="pillow_heif"),
    # Its library cannot write a profile.
    "jxl": Format("jxl", "JPEG XL", (".jxl",), 2**30, icc=False, module="pillow_jxl"),
}

EXTENSIONS: Final[dict[str, str]] = {
    extension: form.name for form in FORMATS.values() for extension in form.extensions
}

ALIASES: Final[dict[str, str]] = {"jpg": "jpeg", "tif": "tiff", "heic": "heif"}

# Ends of names that mark videos in a folder.
VIDEO_EXTENSIONS: Final = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv"),
        *(".mts", ".m2ts", ".mpg", ".mpeg", ".vob", ".dv"),
    }
)
# Ends of names of videos and of other files: the content decides.
UNSURE_EXTENSIONS: Final = frozenset({".gif", ".webp", ".ts"})
# Packets of an MPEG transport stream begin with this byte; cameras put four more in front.
_SYNC: Final = 0x47
_PACKETS: Final = ((0, 188), (4, 192))
# Containers that varfix writes: FFmpeg's muxers by the ends of names.
CONTAINERS: Final = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
}
# Codecs that are usually stored in one container, although others hold them too.
_USUAL_CONTAINERS: Final = {
    "ffv1": ".mkv",
    "prores": ".mov",
    "prores_ks": ".mov",
    "prores_aw": ".mov",
}
_WEBM_CODECS: Final = ("auto", "av1", "libsvtav1", "libaom-av1", "libvpx-vp9")

# Offset, bytes, format. Names without a slash are keys of FORMATS; others are MIME types.
SIGNATURES: Final[tuple[tuple[int, bytes, str], ...]] = (
    (0, b"\xff\xd8\xff", "jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "png"),
    (8, b"WEBP", "webp"),
    (0, b"II*\x00", "tiff"),
    (0, b"MM\x00*", "tiff"),
    (0, b"II+\x00", "tiff"),
    (0, b"MM\x00+", "tiff"),
    (4, b"ftypavif", "avif"),
    (4, b"ftypavis", "avif"),
    (4, b"ftypheic", "heif"),
    (4, b"ftypheix", "heif"),
    (4, b"ftypheim", "heif"),
    (4, b"ftypheis", "heif"),
    (4, b"ftypmif1", "heif"),
    (4, b"ftypmsf1", "heif"),
    (4, b"ftypcrx ", "image/x-canon-cr3"),
    (4, b"ftyp", "video/mp4"),
    (0, b"IIU\x00", "image/x-panasonic-rw2"),
    (0, b"IIRO", "image/x-olympus-orf"),
    (0, b"IIRS", "image/x-olympus-orf"),
    (0, b"MMOR", "image/x-olympus-orf"),
    (0, b"FUJIFILMCCD-RAW", "image/x-fuji-raf"),
    (0, b"GIF8", "image/gif"),
    (0, b"\xff\x0a", "jxl"),
    (0, b"\x00\x00\x00\x0cJXL ", "jxl"),
    (0, b"8BPS", "image/vnd.adobe.photoshop"),
    (0, b"v/1\x01", "image/x-exr"),
    (0, b"%PDF", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\x1a\x45\xdf\xa3", "video/x-matroska"),
)

# Two letters are a weak signature: plain text may begin with them.
_BMP_HEADER_SIZES: Final = (12, 40, 52, 56, 64, 108, 124)


@dataclass(frozen=True, slots=True)
class Header:
    """Size and format of an image, from its first bytes.

    Attributes:
        format: A key of `FORMATS`.
        width: In pixels, after the orientation tag is applied.
        height: In pixels, after the orientation tag is applied.
        has_alpha: The image has a transparency channel or color, perhaps opaque everywhere.
        depth: 8 or 16 bits per channel.
    """

    format: str
    width: int
    height: int
    has_alpha: bool
    depth: int


def canonical(name: str) -> str:
    """Return the key of `FORMATS` for a format as users name it (`jpg`, `tif`, `PNG`)."""
    lower = name.lower()
    return ALIASES.get(lower, lower)


def format_named(name: str) -> Format:
    """Return the facts of a format as users name it."""
    return FORMATS[canonical(name)]


def format_of(path: PurePath | str) -> str | None:
    """Return the format of a file by its name; None when the name is not that of an image."""
    # Not `PurePath(path).suffix`: it takes ten times as long, and scans call this for every file.
    return EXTENSIONS.get(os.path.splitext(path)[1].lower())  # noqa: PTH122


def is_video(path: PurePath) -> bool:
    """Return whether a file's name is that of a video."""
    return path.suffix.lower() in VIDEO_EXTENSIONS


def is_transport_stream(head: bytes) -> bool:
    """Return whether a file is an MPEG transport stream, by its first 400 bytes.

    Its extension `.ts` is also that of programs in TypeScript.
    """
    return any(
        len(head) > start + length and head[start] == head[start + length] == _SYNC
        for start, length in _PACKETS
    )


def result_suffix(suffix: str, codec: str, fallback: str = ".mkv") -> str:
    """Return the extension of a restored video, which determines its container.

    It is that of the source if varfix writes the container and the container holds the codec.

    Args:
        suffix: Extension of the source, with its dot.
        codec: The setting `video.codec`, or FFmpeg's name of the encoder.
        fallback: Extension for sources in other containers. Matroska holds almost every stream; a
            caller that knows the streams may pass another.
    """
    if codec in _USUAL_CONTAINERS:
        return _USUAL_CONTAINERS[codec]
    if suffix.lower() not in CONTAINERS:
        return fallback
    return ".mkv" if suffix.lower() == ".webm" and codec not in _WEBM_CODECS else suffix


def extension_of(name: str) -> str:
    """Return the extension, with its dot, for new files of a format."""
    return FORMATS[canonical(name)].extensions[0]


def sniff(data: bytes) -> str:
    """Return the format of a file by its first bytes.

    Returns:
        A key of `FORMATS`, or a MIME type (recognizable by its slash) for everything else.
    """
    head = data[:4096]
    for offset, magic, kind in SIGNATURES:
        if head.startswith(magic, offset):
            return "avif" if kind == "heif" and _is_avif(head) else kind
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "bmp"
    return "text/plain" if _is_text(head) else "application/octet-stream"


def _is_avif(head: bytes) -> bool:
    """Return whether a generic image container lists AVIF among its compatible brands."""
    brands = head[16 : int.from_bytes(head[:4], "big")]
    return head[8:12] in (b"mif1", b"msf1") and b"avif" in brands


def output_format(source: str, wanted: str) -> str:
    """Return the format of a result: the source's own when `keep` is wanted."""
    return canonical(source if wanted == "keep" else wanted)


def check_output(name: str, header: Header, wanted: str, flatten: str | None) -> None:
    """Refuse, before any work, an image that the output format cannot store.

    Args:
        name: The source's name, for the message.
        header: The source, with `has_alpha` false if its alpha is known to be opaque.
        wanted: `keep` or a format.
        flatten: Color to put under transparency; None = transparency must be kept.

    Raises:
        PlanError: The format needs a package that is not installed.
        FormatLimitError: The image is too wide or too high.
        AlphaLostError: The image has transparency, the format has none, and `flatten` is None.
    """
    form = FORMATS[output_format(header.format, wanted)]
    if not form.available:
        raise PlanError(f"{name} → {form.label}: not available", hint=form.remedy)
    side = max(header.width, header.height)
    if side > form.max_side:
        raise FormatLimitError(
            f"{name} → {form.label}: {side} px is over {form.label}'s {form.max_side} px",
            hint="use --format tiff",
        )
    if header.has_alpha and not form.alpha and flatten is None:
        raise AlphaLostError(
            f"{name} has transparency, {form.label} cannot store it",
            hint="use --format png, or --set output.flatten=white",
        )


def _is_text(head: bytes) -> bool:
    if b"\x00" in head:
        return False
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        return len(head) == 4096 and error.start > 4092  # a character cut by our own limit
    return True
