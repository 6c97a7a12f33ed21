"""Reads HEIC and JPEG XL through packages that are not part of the core installation.

The JPEG XL package decodes a whole file to find its size. This module reads the header itself, so
that a file can be planned, or rejected for its size, without decoding.
"""

from __future__ import annotations

from typing import IO, Any, Final

from PIL import Image, ImageFile

from varfix.engine.errors import DecodeUnsupportedError
from varfix.engine.image.metadata.exif import orientation_of

_CONTAINER: Final = b"\x00\x00\x00\x0cJXL "
_RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_ALPHA, _BLACK = 0, 1
_GRAY: Final = 1


def open_heif(stream: IO[bytes]) -> ImageFile.ImageFile:
    """Open a HEIC file; its pixels are upright, with 8 bits."""
    from pillow_heif import HeifImageFile

    image: ImageFile.ImageFile = HeifImageFile(stream)
    return image


class _Bits:
    """Reads numbers of a JPEG XL codestream, lowest bit first (ISO 18181-1, 9.2)."""

    def __init__(self, data: bytes) -> None:
        self._bits, self._left = int.from_bytes(data, "little"), len(data) * 8

    def take(self, count: int) -> int:
        """Return the next `count` bits.

        Raises:
            EOFError: The data ends.
        """
        if count > self._left:
            raise EOFError("the JPEG XL header is truncated")
        value = self._bits & ((1 << count) - 1)
        self._bits >>= count
        self._left -= count
        return value

    def choose(self, *choices: tuple[int, int]) -> int:
        """Return a number in one of four encodings, each (bits, offset)."""
        bits, offset = choices[self.take(2)]
        return self.take(bits) + offset

    def kind(self) -> int:
        """Return a value of an enumeration."""
        return self.choose((0, 0), (0, 1), (4, 2), (6, 18))

    def depth(self) -> int:
        """Return bits per sample, 0 for floats."""
        if self.take(1):
            self.choose((0, 32), (0, 16), (0, 24), (6, 1))
            self.take(4)
            return 0
        return self.choose((0, 8), (0, 10), (0, 12), (6, 1))


class JxlImageFile(ImageFile.ImageFile):
    """A JPEG XL file; size and channels come from its header, metadata from loading.

    Attributes:
        orientation: EXIF orientation of the pixels, 1 to 8.
        packed: The file has compressed metadata (`brob`), which is not read.
    """

    format = "JXL"
    format_description = "JPEG XL"
    orientation = 1
    packed = False

    def _open(self) -> None:
        assert self.fp is not None
        self._whole = self.fp.read()
        bits = _Bits(_codestream(self._whole)[2:64])
        self._size = _size(bits)
        self._mode = "RGB"
        if not bits.take(1):
            self._describe(bits)
        self.tile = []

    def _describe(self, bits: _Bits) -> None:
        """Read the header from the size to the color space (ISO 18181-1, A.6)."""
        if bits.take(1):
            if bits.take(3) >= 4:
                self._size = self._size[::-1]
            if bits.take(1):
                _size(bits)  # of the intended display
            if bits.take(2):
                raise _unsupported("animation or embedded preview")
        if bits.depth() != 8:
            raise _unsupported("not 8 bits per channel")
        bits.take(1)
        extra = [_channel(bits) for _ in range(bits.choose((0, 0), (0, 1), (4, 2), (12, 1)))]
        if _BLACK in extra:
            raise _unsupported("CMYK")
        bits.take(1)
        gray = not bits.take(1) and not bits.take(1) and bits.kind() == _GRAY
        self._mode = ("L" if gray else "RGB") + ("A" if _ALPHA in extra else "")

    def load(self) -> Any:
        """Decode the file; decode an embedded JPEG as a JPEG."""
        if self._im is None:
            self._decode()
        return super().load()

    def _decode(self) -> None:
        from pillow_jxl import Decoder

        is_jpeg, header, data, profile, boxes = Decoder(num_threads=1)(self._whole)
        if is_jpeg:
            self._decode_jpeg(data)
        else:
            decoded = Image.frombytes(header.mode, (header.width, header.height), data)
            self._take(decoded)
            self._keep({bytes(box.box_type): bytes(box.data) for box in boxes})
        if profile and "icc_profile" not in self.info:
            self.info["icc_profile"] = bytes(profile)
        self._whole = b""

    def _keep(self, boxes: dict[bytes, bytes]) -> None:
        if exif := boxes.get(b"Exif"):
            # The standard begins the box with an offset; some writers omit it.
            bare = exif[:4] in (b"II*\x00", b"MM\x00*")
            self.info["exif"] = exif if bare else exif[4 + int.from_bytes(exif[:4], "big") :]
        if b"xml " in boxes:
            self.info["xmp"] = boxes[b"xml "]
        self.packed = b"brob" in boxes

    def _decode_jpeg(self, data: bytes) -> None:
        from io import BytesIO

        with Image.open(BytesIO(data), formats=["JPEG"]) as image:
            image.load()
            self.info.update(image.info)
            self._take(image)
        self.orientation = orientation_of(self.info.get("exif", b""))

    def _take(self, image: Image.Image) -> None:
        self.im = image.im
        self._size, self._mode = image.size, image.mode


def _codestream(data: bytes) -> bytes:
    """Return the beginning of the codestream, without its container if it has one."""
    if not data.startswith(_CONTAINER):
        return data
    at = 0
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        head = 16 if length == 1 else 8
        if kind in (b"jxlc", b"jxlp"):
            start = at + head + (4 if kind == b"jxlp" else 0)
            return data[start : start + 64]
        if length == 1:
            length = int.from_bytes(data[at + 8 : at + 16], "big")
        if length < head:
            break
        at += length
    raise EOFError("the JPEG XL codestream is missing")


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)
    height = _side(bits, small)
    ratio = bits.take(3)
    if ratio == 0:
        return _side(bits, small), height
    across, down = _RATIOS[ratio - 1]
    return height * across // down, height


def _side(bits: _Bits, small: int) -> int:
    if small:
        return 8 * (bits.take(5) + 1)
    return bits.choose((9, 1), (13, 1), (18, 1), (30, 1))


def _channel(bits: _Bits) -> int:
    """Return the kind of an extra channel; skip its other fields."""
    if bits.take(1):
        return _ALPHA
    kind = bits.kind()
    bits.depth()
    bits.choose((0, 0), (0, 3), (0, 4), (3, 1))
    bits.take(8 * bits.choose((0, 0), (4, 0), (5, 16), (10, 48)))
    if kind == _ALPHA:
        bits.take(1)
    elif kind > _BLACK:
        raise _unsupported("channels besides color and alpha")
    return kind


def _unsupported(reason: str) -> DecodeUnsupportedError:
    return DecodeUnsupportedError(
        f"unsupported JPEG XL ({reason})",
        hint="convert it to PNG, TIFF or an 8-bit JPEG XL, for example with `djxl IMAGE out.png`",
    )
