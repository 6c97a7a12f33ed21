"""Finds damage in the coded data of a JPEG, which libjpeg passes over in silence.

libjpeg paints gray, or smears, what it cannot decode, and Pillow drops its warnings. The decoder of
FFmpeg ends with an error instead, when asked to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from varfix.engine.image import jpeg

_STRICT: Final = "explode+bitstream+buffer+careful+compliant+aggressive"
# Codes for details of an image do not begin with zeros alone for so long. Those for its coarsest
# values may, where it is black.
_BLANK: Final = bytes(256)


def is_damaged(data: bytes, end: int) -> bool:
    """Tell whether the coded data of a JPEG is cut short or overwritten.

    Args:
        data: The whole file.
        end: Offset behind the image, as `jpeg.end_of_image` returns it.

    Returns:
        False also for codings that FFmpeg does not know.
    """
    import av

    if jpeg.oddity(data) is not None:
        return False
    if any(data.find(_BLANK, coded, behind) >= 0 for coded, behind in _details(data)):
        return True
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options = {"err_detect": _STRICT}
    decoder.thread_count = 1
    try:
        decoder.decode(av.Packet(jpeg.coding_alone(data, end)))
    except av.error.InvalidDataError:
        return True
    except av.error.FFmpegError:
        return False
    return False


def _details(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield where the scans of a progressive JPEG lie that hold no coarsest values."""
    for start, coded, end in jpeg.scans(data):
        first = start + 1 + 2 * data[start] if start < len(data) else len(data)
        if data[first : first + 1] > b"\x00":
            yield coded, end
