"""Finds damage in the coded data of a JPEG, which libjpeg passes over in silence.

libjpeg paints gray, or smears, what it cannot decode, and Pillow drops its warnings. The decoder of
FFmpeg ends with an error instead, when asked to.
"""

from __future__ import annotations

from varfix.engine.image import jpeg


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
    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options = {"err_detect": "explode"}
    decoder.thread_count = 1
    try:
        decoder.decode(av.Packet(jpeg.coding_alone(data, end)))
    except av.error.InvalidDataError:
        return True
    except av.error.FFmpegError:
        return False
    return False
