"""Static HDR metadata of a video: mastering display and content light level (SMPTE ST 2086)."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final, cast

from varfix.engine.video.clip import HdrMetadata

if TYPE_CHECKING:
    from av import VideoFrame

_MASTERING: Final = "MASTERING_DISPLAY_METADATA"
_LIGHT: Final = "CONTENT_LIGHT_LEVEL"
# Metadata that changes from frame to frame, and names for messages.
_DYNAMIC: Final = {
    "DYNAMIC_HDR_PLUS": "HDR10+",
    "DYNAMIC_HDR_VIVID": "HDR Vivid",
    "DOVI_METADATA": "Dolby Vision",
    "DOVI_RPU_BUFFER": "Dolby Vision",
}
# FFmpeg's AVMasteringDisplayMetadata: ten ratios (x and y of red, green, blue and white, least and
# greatest light), and whether the first eight and the last two are given.
_RATIOS: Final = 10
_STRUCT: Final = struct.Struct(f"{2 * _RATIOS}i2i")


def hdr_metadata(frame: VideoFrame) -> HdrMetadata:
    """Return the HDR metadata of a frame."""
    found = {}
    for number in range(len(frame.side_data)):
        data = cast(Any, frame.side_data)[number]
        found[data.type.name] = bytes(data)
    dynamic = next((name for kind, name in _DYNAMIC.items() if kind in found), "")
    return HdrMetadata(_mastering(found.get(_MASTERING)), _light(found.get(_LIGHT)), dynamic)


def _mastering(data: bytes | None) -> tuple[Fraction, ...]:
    if data is None or len(data) < _STRUCT.size:
        return ()
    *numbers, has_primaries, has_light = _STRUCT.unpack(data[: _STRUCT.size])
    if not (has_primaries and has_light and all(numbers[1::2])):
        return ()
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return tuple(Fraction(numerator, denominator) for numerator, denominator in pairs)


def _light(data: bytes | None) -> tuple[int, int] | None:
    if data is None or len(data) < 8:
        return None
    most, average = struct.unpack("2I", data[:8])
    return most, average
