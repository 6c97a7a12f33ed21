"""One image or video of a run: where it is read, where its result goes, and its header."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from varfix.engine.formats import Header, format_of
from varfix.engine.storage.identity import Identity
from varfix.engine.video.clip import NO_PIPE, WHOLE, Clip, Pipe, TimeRange

# Bytes per pixel while an image is in flight: decoded file, float source, float result.
_BYTES_PER_PIXEL: Final = 36
_UNKNOWN_COST: Final = 1 << 20
# Bytes of file per pixel of images that are stored densely, where reading a header would need a
# request over a network.
_DENSE: Final = {"jpeg": 0.2, "png": 0.7, "webp": 0.1, "avif": 0.08, "heif": 0.12, "jxl": 0.2}

# Name of the source of an image that comes from a pipe.
STDIN: Final = "stdin"


@dataclass(frozen=True, slots=True)
class ItemSource:
    """The file, object or pipe that an item is read from.

    Attributes:
        name: Name in the source store.
        path: The file; None for an object, and for a pipe.
        given: Name that the user gave it, in a run of a single file; None in a run of a folder.
        version: Identity of an object as listed; None for files.
    """

    name: str
    path: Path | None
    given: str | None = None
    version: Identity | None = None

    @classmethod
    def of_file(cls, path: Path) -> ItemSource:
        """Return the source for a file that the user named."""
        return cls(path.name, path, os.fspath(path))

    @property
    def event_name(self) -> str:
        """Name in events: as the user gave it, else the name in the store."""
        return self.given or self.name


@dataclass(frozen=True, slots=True)
class ItemTarget:
    """The file, object or pipe that the result of an item is written to.

    Attributes:
        name: Name in the target store.
        path: The file; None for an object, and for a pipe.
        given: Name that the user gave it, in a run of a single file; None in a run of a folder.
        replaces: An object of this name may be replaced; a file always is.
    """

    name: str
    path: Path | None
    given: str | None = None
    replaces: bool = False

    @classmethod
    def of_file(cls, path: Path) -> ItemTarget:
        """Return the target for a file that the user named."""
        return cls(path.name, path, os.fspath(path))

    @property
    def event_name(self) -> str:
        """Name in events: as the user gave it, else the name in the store."""
        return self.given or self.name


@dataclass(frozen=True, slots=True)
class VideoPart:
    """The part of a video that is restored.

    Attributes:
        clip: Header of the video; None if it could not be read.
        time_range: The part.
        pipe: Its ends that are pipes.
    """

    clip: Clip | None = None
    time_range: TimeRange = WHOLE
    pipe: Pipe = NO_PIPE

    @property
    def pixels(self) -> int:
        """Width times height of all frames together; 0 if unknown."""
        return self.clip.pixels_in(self.time_range) if self.clip else 0

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height of a frame; None if unknown."""
        return (self.clip.layout.width, self.clip.layout.height) if self.clip else None

    @property
    def frames(self) -> int | None:
        """Number of frames according to the header; None if unknown."""
        return self.clip.frames_in(self.time_range) if self.clip else None


@dataclass(frozen=True, slots=True)
class Item:
    """One image or video to restore.

    Attributes:
        id: Number in the run.
        source: Where it is read.
        target: Where its result goes.
        header: Size and format of an image; None if unknown, and for videos.
        video: The part of a video; None for images.
    """

    id: int
    source: ItemSource
    target: ItemTarget
    header: Header | None = None
    video: VideoPart | None = None

    @property
    def is_video(self) -> bool:
        """Whether the item is a video and not an image."""
        return self.video is not None

    @property
    def pixels(self) -> int:
        """Width times height, of all frames together; 0 if unknown."""
        if self.video is not None:
            return self.video.pixels
        return self.header.width * self.header.height if self.header else 0

    @property
    def size(self) -> tuple[int, int] | None:
        """Width and height; None if unknown."""
        if self.video is not None:
            return self.video.size
        return (self.header.width, self.header.height) if self.header else None

    @property
    def frames(self) -> int | None:
        """Number of frames according to the header of a video; None for images."""
        return None if self.video is None else self.video.frames

    @property
    def cost(self) -> int:
        """Bytes of memory while in flight; the queues of a video limit its frames themselves."""
        if self.header is not None:
            return memory_of(self.header) + _UNKNOWN_COST
        version = self.source.version
        size = 0 if version is None or self.is_video else version.st_size
        dense = _DENSE.get(format_of(self.source.name) or "", 1.0)
        return size + int(size / dense * _BYTES_PER_PIXEL) + _UNKNOWN_COST


def memory_of(header: Header) -> int:
    """Return the bytes that an image takes while in flight."""
    return header.width * header.height * _BYTES_PER_PIXEL
