"""One image or clip of a plan: where it is, where its result goes, what is known of it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from varfix.engine.formats import Header, format_of, is_video
from varfix.engine.storage.identity import Identity
from varfix.engine.video.clip import NO_PIPE, WHOLE, Clip, Pipe, TimeRange

# Bytes per pixel while an image is in flight: decoded file, float source, float result.
_BYTES_PER_PIXEL: Final = 36
_UNKNOWN_COST: Final = 1 << 20
# Bytes of file per pixel of images that are stored densely, where a header would have to be asked
# for over a network.
_DENSE: Final = {"jpeg": 0.2, "png": 0.7, "webp": 0.1, "avif": 0.08, "heif": 0.12, "jxl": 0.2}


@dataclass(frozen=True, slots=True)
class Item:
    """One image to restore.

    Attributes:
        id: number in the run.
        src: name below the source, or the path as the user gave it.
        dst: name below the destination, or the path as the user gave it.
        source: file to read; in a store a path that leads nowhere, but ends as the name does.
        target: file to write; likewise.
        header: size and format of an image, None when they are not known.
        clip: header of a clip, None for images and when it could not be read.
        cut: the part of a clip that is wanted.
        moving: it is a clip, whatever its name.
        pipe: its ends that are no files.
        stamp: identity of an object in a store; None where it is not known yet, and for files.
        replaces: an object may be replaced by the result.
    """

    id: int
    src: str
    dst: str
    source: Path
    target: Path
    header: Header | None
    clip: Clip | None = None
    cut: TimeRange = WHOLE
    moving: bool = False
    pipe: Pipe = NO_PIPE
    stamp: Identity | None = None
    replaces: bool = False

    @property
    def pixels(self) -> int:
        """Width times height, of all frames together; 0 when unknown."""
        if self.clip is not None:
            return self.clip.pixels_in(self.cut)
        return self.header.width * self.header.height if self.header else 0

    @property
    def is_clip(self) -> bool:
        """Whether it is a clip and no image."""
        return self.moving or is_video(self.source)

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height, None when unknown."""
        if self.clip is not None:
            return self.clip.layout.width, self.clip.layout.height
        return (self.header.width, self.header.height) if self.header else None

    @property
    def frames(self) -> int | None:
        """Frames of a clip, as far as its header tells; None for images."""
        return None if self.clip is None else self.clip.frames_in(self.cut)

    @property
    def cost(self) -> int:
        """Bytes of memory while in flight; a clip's frames are bounded by its own queues."""
        if self.header is not None:
            return memory_of(self.header) + _UNKNOWN_COST
        size = 0 if self.stamp is None or self.is_clip else self.stamp.st_size
        dense = _DENSE.get(format_of(self.source) or "", 1.0)
        return size + int(size / dense * _BYTES_PER_PIXEL) + _UNKNOWN_COST

    @property
    def bytes(self) -> int:
        """Bytes of the source; 0 when it is gone, or not known yet."""
        if self.stamp is not None:
            return self.stamp.st_size
        with suppress(OSError):
            return self.source.stat().st_size
        return 0


def memory_of(header: Header) -> int:
    """Return the bytes that an image takes while in flight."""
    return header.width * header.height * _BYTES_PER_PIXEL
