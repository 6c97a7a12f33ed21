"""Finds out which encoders of clips work here, by letting each store a clip and reading it back."""

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
from varfix.engine.video.encoders import ENCODERS, hardware_encoders
from varfix.engine.video.probe import probe_clip
from varfix.engine.video.reader import ClipReader, ReadOptions
from varfix.engine.video.writer import SegmentEncoder, encoding_for

_SIDE: Final = 256  # pixels: encoders in hardware take no very small frames
_FRAMES: Final = 6
_NEAR: Final = 4.0  # code values, on average: what loss may do to a plain image


class EncoderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an encoder works here; `detail` says why not.

    Attributes:
        codec: as `--codec` takes it.
        encoder: what FFmpeg calls it.
        needed: whether varfix promises it; the others need hardware that few have.
    """

    codec: str
    encoder: str
    needed: bool
    works: bool
    detail: str = ""


def check_encoders() -> Iterator[EncoderStatus]:
    """Try varfix's own encoders, and those of graphics processors that FFmpeg was built with."""
    for codec, encoder in ENCODERS.items():
        yield _fact(codec, encoder.name, needed=True)
    for name in hardware_encoders():
        yield _fact(name, name, needed=False)


def _fact(codec: str, encoder: str, *, needed: bool) -> EncoderStatus:
    detail = _fault(codec)
    return EncoderStatus(
        codec=codec, encoder=encoder, needed=needed, works=not detail, detail=detail
    )


def _fault(codec: str) -> str:
    """Return what is wrong with an encoder, or nothing."""
    layout = Layout(_SIDE, _SIDE)
    frames = [_frame(layout, number) for number in range(_FRAMES)]
    try:
        with TemporaryDirectory(prefix="varfix-") as folder:
            place = Path(folder) / "clip.mkv"
            writer = SegmentEncoder(place, encoding_for(Clip(layout), VideoSettings(codec=codec)))
            for frame in frames:
                writer.add(frame)
            writer.finish()
            reader = ClipReader(place, probe_clip(place), ReadOptions(layout))
            found = [frame.planes for frame in reader.frames()]
    except (VarfixError, OSError) as error:
        return str(error)
    far = len(found) != len(frames) or max(map(_distance, found, frames)) > _NEAR
    return "a clip does not come back as it was" if far else ""


def _frame(layout: Layout, number: int) -> tuple[Samples, ...]:
    """Planes of a slope that moves, in one color."""
    slope = np.linspace(40, 200, layout.width).astype(np.uint8)
    height, width = layout.shapes[1]
    luma = np.tile(np.roll(slope, number), (layout.height, 1))
    return luma, np.full((height, width), 110, np.uint8), np.full((height, width), 150, np.uint8)


def _distance(one: tuple[Samples, ...], other: tuple[Samples, ...]) -> float:
    return max(
        float(np.abs(a.astype(int) - b.astype(int)).mean()) for a, b in zip(one, other, strict=True)
    )
