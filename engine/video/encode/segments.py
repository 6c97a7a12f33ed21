"""Finished segments of a video, kept so that an interruption costs at most one segment.

A video is encoded in segments of a fixed number of frames, `DST.varfix/seg-000000.mkv` and so on.
Next to each segment is a record of its frames' times. The record is written under its final name
after its segment is safe on the disk; a segment without a record is encoded again. Segments begin
at the same frames in every run, so an interrupted run gives the same frames as an uninterrupted
one.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from varfix.engine.system.atomic import flush_and_rename, translate_os_errors, write_file
from varfix.engine.system.digests import edge_digest_of_file
from varfix.engine.system.long_names import fitted_name
from varfix.engine.system.state_folder import SEGMENTS_SUFFIX

_STATE: Final = "state.json"
_VERSION: Final = 1


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """A finished part of a video.

    Attributes:
        times: Presentation time and duration of every frame, in ticks.
        delay: Frames by which decoding runs ahead of presentation.
        last: Checksum of the segment's last source frame.
        size: Bytes of the file.
        sha256: Digest of its first and last MiB.
    """

    times: tuple[tuple[int, int], ...]
    delay: int
    last: int
    size: int
    sha256: str


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """Source, model and settings of the segments."""

    version: int
    identity: dict[str, str]


class SegmentFolder:
    """The segments of one destination.

    Attributes:
        path: The folder.
    """

    def __init__(self, target: Path) -> None:
        """Name the folder; nothing is written yet.

        Args:
            target: The result that the segments belong to.
        """
        self.path = folder_of(target)

    def begin(self, identity: Mapping[str, str]) -> list[Segment]:
        """Return the segments that are finished and intact; remove everything else.

        Args:
            identity: Everything that determines the frames; segments of another identity are
                removed.

        Raises:
            OutputError: The folder cannot be written.
        """
        wanted = _State(version=_VERSION, identity=dict(identity))
        with translate_os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if self._state() != wanted:
                self._clear(0)
                write_file(self.path / _STATE, msgspec.json.encode(wanted))
            segments: list[Segment] = []
            while (segment := self._intact(len(segments))) is not None:
                segments.append(segment)
            self._clear(len(segments))
        return segments

    def path_of(self, number: int) -> Path:
        """Return the file of a segment."""
        return self.path / f"seg-{number:06d}.mkv"

    def add(self, number: int, part: Path, segment: Segment) -> None:
        """Move a written file to its place, then write its record.

        Args:
            number: Number of the segment.
            part: The written file.
            segment: Its description.

        Raises:
            OutputError: The disk is full, or writing fails.
        """
        with translate_os_errors(self.path, segment.size):
            flush_and_rename(part, self.path_of(number))
            write_file(self.path / _record_name(number), msgspec.json.encode(segment))

    def describe(self, part: Path, times: list[tuple[int, int]], delay: int, last: int) -> Segment:
        """Return the description of a written file."""
        return Segment(
            times=tuple(times),
            delay=delay,
            last=last,
            size=part.stat().st_size,
            sha256=edge_digest_of_file(part),
        )

    def remove_if_empty(self) -> None:
        """Remove the folder if it holds no finished segment."""
        with suppress(OSError):
            if not any(self.path.glob(_record_name(0))):
                self.remove()

    def remove(self) -> None:
        """Remove the folder; ignore what cannot be removed."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _state(self) -> _State | None:
        with suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode((self.path / _STATE).read_bytes(), type=_State)
        return None

    def _intact(self, number: int) -> Segment | None:
        """Return a segment's description if its file is complete and unchanged."""
        with suppress(OSError, msgspec.DecodeError):
            record = (self.path / _record_name(number)).read_bytes()
            segment = msgspec.json.decode(record, type=Segment)
            path = self.path_of(number)
            if path.stat().st_size == segment.size and edge_digest_of_file(path) == segment.sha256:
                return segment
        return None

    def _clear(self, first: int) -> None:
        """Remove the segments from number `first` on, and unfinished files."""
        keep = {_STATE, *(_record_name(n) for n in range(first))}
        keep |= {self.path_of(n).name for n in range(first)}
        for path in self.path.iterdir():
            if path.name not in keep and path.is_file():
                path.unlink()


def folder_of(target: Path) -> Path:
    """Return the folder of a result's segments while the result is unfinished."""
    return target.with_name(fitted_name(target.name, SEGMENTS_SUFFIX))


def _record_name(number: int) -> str:
    return f"seg-{number:06d}.json"
