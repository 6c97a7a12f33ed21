"""What is finished of a clip, kept so that no kill costs more than a segment.

A clip is encoded in segments of a fixed number of frames, `DST.varfix/seg-000000.mkv` and so on,
each with a note beside it of its frames' times. A note is written after its segment is safe on the
disk, under its final name at once; a segment without a note is made again. Where segments begin is
a matter of the clip alone, so that an interrupted run gives the same frames as an unbroken one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from varfix.engine.storage.manifest import digest_of_file
from varfix.engine.system.atomic import translated
from varfix.engine.video.clip import SEGMENTS

_STATE: Final = "state.json"
_VERSION: Final = 1


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A finished part of a clip.

    Attributes:
        times: of every frame, when it is shown and for how long, in ticks.
        delay: frames by which decoding runs ahead of showing.
        last: checksum of the source's last frame in it.
        size: bytes of the file.
        sha256: digest of its first and last MiB.
    """

    times: tuple[tuple[int, int], ...]
    delay: int
    last: int
    size: int
    sha256: str


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """What the segments are made of: source, model, settings."""

    version: int
    identity: dict[str, str]


class SegmentFolder:
    """The segments of one destination."""

    def __init__(self, target: Path) -> None:
        self.path = folder_of(target)

    def begin(self, identity: Mapping[str, str]) -> list[Segment]:
        """Return the segments that are finished and whole; remove everything else.

        Args:
            identity: all that decides the frames; segments of another identity are of no use.

        Raises:
            OutputError: The folder cannot be written.
        """
        wanted = _State(version=_VERSION, identity=dict(identity))
        with translated(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if self._state() != wanted:
                self._clear(0)
                self._write(_STATE, msgspec.json.encode(wanted))
            segments: list[Segment] = []
            while (segment := self._whole(len(segments))) is not None:
                segments.append(segment)
            self._clear(len(segments))
        return segments

    def place(self, number: int) -> Path:
        """Where a segment lies."""
        return self.path / f"seg-{number:06d}.mkv"

    def add(self, number: int, part: Path, note: Segment) -> None:
        """Take a written file as the next segment.

        Raises:
            OutputError: The disk is full, or refuses.
        """
        with translated(self.path, note.size):
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(self.place(number))
            self._write(_note(number), msgspec.json.encode(note))

    def note(self, part: Path, times: list[tuple[int, int]], delay: int, last: int) -> Segment:
        """Describe a written file."""
        return Segment(
            times=tuple(times),
            delay=delay,
            last=last,
            size=part.stat().st_size,
            sha256=digest_of_file(part),
        )

    def remove(self) -> None:
        """Remove the folder; what cannot be removed stays."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _state(self) -> _State | None:
        with suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((self.path / _STATE).read_bytes(), type=_State)
        return None

    def _whole(self, number: int) -> Segment | None:
        with suppress(OSError, msgspec.DecodeError):
            note = msgspec.json.decode((self.path / _note(number)).read_bytes(), type=Segment)
            place = self.place(number)
            if place.stat().st_size == note.size and digest_of_file(place) == note.sha256:
                return note
        return None

    def _clear(self, first: int) -> None:
        """Remove segments from a number on, and what was never finished."""
        keep = {_STATE, *(_note(n) for n in range(first))}
        keep |= {self.place(n).name for n in range(first)}
        for path in self.path.iterdir():
            if path.name not in keep and path.is_file():
                path.unlink()

    def _write(self, name: str, data: bytes) -> None:
        part = self.path / f"{name}.part"
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path / name)


def folder_of(target: Path) -> Path:
    """The folder in which the segments of a result lie while it is being made."""
    return target.with_name(f"{target.name}{SEGMENTS}")


def _note(number: int) -> str:
    return f"seg-{number:06d}.json"
