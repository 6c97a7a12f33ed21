"""Detects damage in the coded data of a JPEG that libjpeg does not report.

libjpeg replaces data that it cannot decode by gray or by repeated pixels, and Pillow drops its
warnings. The decoder of FFmpeg can be set to end with an error instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from varfix.engine.image import jpeg

_STRICT: Final = "explode+bitstream+buffer+careful+compliant+aggressive"
# In AC scans, valid data has no run of zeros of this length. In DC scans, it may have for black.
_BLANK: Final = bytes(256)


def is_damaged(data: bytes, end: int) -> bool:
    """Return whether the coded data of a JPEG is truncated or overwritten.

    Args:
        data: The whole file.
        end: Offset after the image, as `jpeg.end_of_first_image` returns it.

    Returns:
        False also for codings that FFmpeg does not support.
    """
    import av

    if jpeg.unusual_coding(data) is not None:
        return False
    if any(data.find(_BLANK, coded, behind) >= 0 for coded, behind in _details(data)):
        return True
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options = {"err_detect": _STRICT}
    decoder.thread_count = 1
    try:
        decoder.decode(av.Packet(jpeg.without_metadata(data, end)))
    except av.error.InvalidDataError:
        return True
    except av.error.FFmpegError:
        return False
    return False


def _details(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the start and end of the coded data of each AC scan of a progressive JPEG."""
    for start, coded, end in jpeg.scans(data):
        first = start + 1 + 2 * data[start] if start < len(data) else len(data)
        if data[first : first + 1] > b"\x00":
            yield coded, end
