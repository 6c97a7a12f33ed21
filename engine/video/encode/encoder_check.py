"""Checks which video encoders work here: each encodes a short video that is then decoded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
import numpy as np

from varfix.engine.errors import VarfixError
from varfix.engine.settings.types import VideoSettings
from varfix.engine.video.clip import Clip, Layout, Samples
from varfix.engine.video.encode.encoders import ENCODERS, hardware_encoders
from varfix.engine.video.encode.writer import SegmentEncoder, encoding_for
from varfix.engine.video.probe import probe_clip
from varfix.engine.video.reader import ClipReader, ReadOptions

_SIDE: Final = 256  # pixels; hardware encoders reject very small frames
_FRAMES: Final = 6
_MAX_ERROR: Final = 4.0  # mean error in code values of a smooth image


class EncoderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an encoder works here.

    Attributes:
        codec: Value of `--codec`.
        encoder: FFmpeg's name.
        needed: Whether varfix requires it; the others need special hardware.
        works: Whether the check succeeded.
        detail: Why it failed; empty on success.
    """

    codec: str
    encoder: str
    needed: bool
    works: bool
    detail: str = ""


def check_encoders() -> Iterator[EncoderStatus]:
    """Check varfix's own encoders, and the GPU encoders in this build of FFmpeg."""
    for codec, encoder in ENCODERS.items():
        yield _status(codec, encoder.name, needed=True)
    for name in hardware_encoders():
        yield _status(name, name, needed=False)


def _status(codec: str, encoder: str, *, needed: bool) -> EncoderStatus:
    detail = _find_fault(codec)
    return EncoderStatus(
        codec=codec, encoder=encoder, needed=needed, works=not detail, detail=detail
    )


def _find_fault(codec: str) -> str:
    """Return why an encoder fails; empty if it works."""
    try:
        encoding = encoding_for(Clip(Layout(_SIDE, _SIDE)), VideoSettings(codec=codec))
        layout = encoding.layout
        frames = [_frame(layout, number) for number in range(_FRAMES)]
        with TemporaryDirectory(prefix="varfix-") as folder:
            place = Path(folder) / "clip.mkv"
            writer = SegmentEncoder(place, encoding)
            for frame in frames:
                writer.add(frame)
            writer.finish()
            reader = ClipReader(place, probe_clip(place), ReadOptions(layout))
            found = [frame.planes for frame in reader.frames()]
    except (VarfixError, OSError) as error:
        return str(error)
    most = _MAX_ERROR * (1 << (layout.depth - 8))
    far = len(found) != len(frames) or max(map(_distance, found, frames)) > most
    return "decoded frames differ from the encoded ones" if far else ""


def _frame(layout: Layout, number: int) -> tuple[Samples, ...]:
    """Return the planes of a moving gradient in one color."""
    step = 1 << (layout.depth - 8)
    slope = (step * np.linspace(40, 200, layout.width)).astype(layout.dtype)
    blue, red = (np.full(layout.shapes[1], step * code, layout.dtype) for code in (110, 150))
    return np.tile(np.roll(slope, number), (layout.height, 1)), blue, red


def _distance(first: tuple[Samples, ...], second: tuple[Samples, ...]) -> float:
    return max(
        float(np.abs(a.astype(int) - b.astype(int)).mean())
        for a, b in zip(first, second, strict=True)
    )
