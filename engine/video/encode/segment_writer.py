"""Encodes frames into segments of a fixed number of frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from varfix.engine.errors import DiskFullError, EncodeError
from varfix.engine.system.atomic import translate_os_errors
from varfix.engine.system.disk_space import free_bytes
from varfix.engine.video.clip import Frame, Samples
from varfix.engine.video.encode.segments import Segment, SegmentFolder
from varfix.engine.video.encode.writer import Encoding, SegmentEncoder, count_frames
from varfix.engine.video.reader import checksum


class SegmentWriter:
    """Encodes frames into the segments of a folder.

    Attributes:
        segments: All finished segments, in order.
    """

    def __init__(
        self, folder: SegmentFolder, encoding: Encoding, length: int, finished: Sequence[Segment]
    ) -> None:
        """Begin after the finished segments.

        Args:
            folder: Folder of the segments.
            encoding: Encoder and pixel format.
            length: Frames in a segment.
            finished: Segments of an earlier run.
        """
        self.segments = list(finished)
        self._folder, self._encoding, self._length = folder, encoding, length
        self._encoder: SegmentEncoder | None = None
        self._times: list[tuple[int, int]] = []
        self._last_checksum = 0

    @property
    def _part(self) -> Path:
        return self._folder.path / "segment.part"

    def add(self, frame: Frame, planes: tuple[Samples, ...]) -> None:
        """Encode a frame; finish the segment when it is full.

        Args:
            frame: The source frame, for its time and checksum.
            planes: The restored samples.

        Raises:
            EncodeError: The encoder fails.
            OutputError: The disk is full, or writing fails.
        """
        with translate_os_errors(self._folder.path, self._encoding.layout.frame_bytes):
            if self._encoder is None:
                self._encoder = SegmentEncoder(self._part, self._encoding)
            self._encoder.add(planes)
        self._times.append((frame.pts, frame.duration))
        self._last_checksum = checksum(frame)
        if len(self._times) == self._length:
            self._finish_segment()

    def finish(self) -> None:
        """Finish the last segment; raises as `add`."""
        if self._times:
            self._finish_segment()

    def close(self) -> None:
        """Close the file; an unfinished segment is lost."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def _finish_segment(self) -> None:
        encoder = self._encoder
        assert encoder is not None
        with translate_os_errors(self._folder.path, self._encoding.layout.frame_bytes):
            encoder.finish()
            if count_frames(self._part) != len(self._times):
                raise self._incomplete()
        segment = self._folder.describe(self._part, self._times, encoder.delay, self._last_checksum)
        self._folder.add(len(self.segments), self._part, segment)
        self.segments.append(segment)
        self._encoder, self._times = None, []

    def _incomplete(self) -> DiskFullError | EncodeError:
        """Return the error for missing frames: libraries do not always report a full disk."""
        size = self._part.stat().st_size
        if free_bytes(self._folder.path) < max(size, 1 << 20):
            return DiskFullError(
                f"{self._folder.path.parent}: no space left",
                hint="free space and run the same command again",
            )
        return EncodeError(f"{self._encoding.encoder} lost frames")
