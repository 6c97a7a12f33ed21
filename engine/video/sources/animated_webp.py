"""Animated WebP, which FFmpeg does not decode: Pillow does, into a lossless temporary file."""

from __future__ import annotations

import atexit
import functools
import shutil
from fractions import Fraction
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

import numpy as np

from varfix.engine.errors import DecodeTruncatedError, DecodeUnsupportedError
from varfix.engine.system.files import open_source

_TICK: Final = Fraction(1, 1000)
# Browsers show frames without a duration for so long.
_SHORTEST: Final = 10  # milliseconds
_DEFAULT: Final = 100
_MOST_CACHED: Final = 2


def is_webp(path: Path) -> bool:
    """Return whether a file is WebP, by its first bytes."""
    with open_source(path) as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def decoded_webp(path: Path) -> Path:
    """Return a Matroska file with the frames of an animation, which lives until the program ends.

    Raises:
        DecodeTruncatedError: A frame is damaged.
        DecodeUnsupportedError: It is a single image.
    """
    stat = path.stat()
    return _decoded(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(_MOST_CACHED)
def _decoded(path: Path, size: int, time: int) -> Path:
    """Decode a file; size and time say which of its states."""
    import av
    from PIL import Image

    with Image.open(path) as animation:
        count = getattr(animation, "n_frames", 1)
        if count == 1:
            raise DecodeUnsupportedError("a single image", hint="run 'varfix image' for it")
        folder = Path(mkdtemp(prefix="varfix-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        with av.open(f"{folder}/frames.mkv", "w") as out:
            stream = out.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = *animation.size, "bgra"
            stream.codec_context.time_base = _TICK
            at = 0
            for number in range(count):
                try:
                    animation.seek(number)
                    image = animation.convert("RGBA")
                except (OSError, EOFError, SyntaxError) as error:
                    raise DecodeTruncatedError(f"data is damaged at frame {number}") from error
                frame = av.VideoFrame.from_ndarray(np.asarray(image), format="rgba")
                frame = frame.reformat(format="bgra")
                lasts = int(animation.info.get("duration", 0))
                lasts = lasts if lasts >= _SHORTEST else _DEFAULT
                frame.pts, frame.time_base, frame.duration = at, _TICK, lasts
                for packet in stream.encode(frame):
                    packet.duration = lasts  # the encoder forgets it
                    out.mux(packet)
                at += lasts
            out.mux(stream.encode(None))
    return folder / "frames.mkv"
