"""A trial of a result before the first frame: its streams, muxed with a few frames.

What a container rejects or changes would otherwise appear only after all work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Final

import numpy as np

from varfix.engine.errors import EncodeError
from varfix.engine.settings.types import VideoSettings
from varfix.engine.video.clip import WHOLE, Clip, TimeRange
from varfix.engine.video.containers import open_container
from varfix.engine.video.encode.segments import Segment
from varfix.engine.video.encode.writer import Encoding, SegmentEncoder, encoding_for
from varfix.engine.video.mux.assemble import assemble
from varfix.engine.video.mux.iso_boxes import track_descriptions
from varfix.engine.video.mux.mux_input import EncodedSegments, MuxInput
from varfix.engine.video.mux.selection import selected_streams
from varfix.engine.video.mux.streams import (
    ISO,
    container_traits,
    describe,
    is_part_of_chapters,
    is_timecode,
)
from varfix.engine.video.mux.subtitles import form_for
from varfix.engine.video.mux.verify import verify
from varfix.engine.video.sources.numbered_images import DEMUXER

if TYPE_CHECKING:
    from av.stream import Stream

_FRAMES: Final = 3
_PACKETS: Final = 2  # of each copied stream


@dataclass(frozen=True)
class MuxTrial:
    """The streams of a result that a container cannot hold.

    Attributes:
        refused: Frames and streams without which there is no result, as texts for a message.
        lost: Data streams that are left out, as texts.
        left_out: Indexes of the streams of the source that are not copied.
        converted: Subtitles that are converted, as texts.
    """

    refused: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    left_out: frozenset[int] = frozenset()
    converted: tuple[str, ...] = ()


def try_muxing(
    clip: Clip,
    source: Path | None,
    target: Path,
    video: VideoSettings,
    time_range: TimeRange = WHOLE,
) -> MuxTrial:
    """Mux a few frames with the first packets of each stream to copy.

    Args:
        clip: Header of the source.
        source: File to copy streams from; None for a pipe.
        target: File whose name gives the container; it is not written.
        video: Encoder, and whether to copy streams.
        time_range: Part of the source.

    Raises:
        PlanError: The encoder does not exist, or does not support the frames; varfix does not
            write such a container.
        DeviceUnavailableError: The requested hardware encoder does not work.
        DecodeError: The source cannot be opened.
    """
    traits = container_traits(target, clip.container)
    encoding = encoding_for(clip, video)
    if encoding.encoder not in traits.codecs:
        return MuxTrial((f"{encoding.encoder} streams",))
    is_copied = video.streams != "none" and clip.container != DEMUXER
    copied = source if is_copied else None
    mux_input = MuxInput(clip, copied, WHOLE, traits, packets=_PACKETS)
    with TemporaryDirectory(prefix="varfix-") as folder:
        trial = _Trial(mux_input, _encode(clip, encoding, Path(folder)), Path(folder))
        return trial.run(video.streams, time_range)


class _Trial:
    """Trials with one set of encoded frames."""

    def __init__(self, mux_input: MuxInput, encoded: EncodedSegments, folder: Path) -> None:
        self._input, self._encoded, self._folder = mux_input, encoded, folder

    def run(self, selection: str, time_range: TimeRange) -> MuxTrial:
        """Return the streams that fail; streams are tried singly only if all together fail."""
        if self._input.source is None:
            fault = self._fault(frozenset())
            return MuxTrial((f"these frames ({fault})",) if fault else ())
        with open_container(self._input.source) as container:
            streams = {
                stream.index: stream for stream in container.streams if self._is_tried(stream)
            }
            unselected = set(streams) - selected_streams(selection, container.streams)
            gone = unselected | {
                index for index, stream in streams.items() if self._is_gone(stream, time_range)
            }
            failed = self._failed(set(streams), gone)
            lost = {n for n in failed | gone if streams[n].type == "data"} - unselected
            refused = [describe(streams[index]) for index in sorted(failed - lost)]
            if not refused and (fault := self._fault(frozenset(failed | gone))):
                refused = [f"these streams together ({fault})"]
            lost_texts = tuple(describe(streams[index]) for index in sorted(lost))
            muxer = self._input.traits.muxer
            converted = tuple(
                f"{describe(stream)} is converted to {form}"
                for index, stream in streams.items()
                if index not in failed | gone and (form := form_for(stream, muxer)) is not None
            )
            return MuxTrial(tuple(refused), lost_texts, frozenset(failed | gone), converted)

    def _failed(self, streams: set[int], gone: set[int]) -> set[int]:
        """Return the streams that fail even without the others; none if all together work."""
        if not self._fault(frozenset(gone)) or self._fault(frozenset(streams)):
            return set()
        return {index for index in streams - gone if self._fault(frozenset(streams - {index}))}

    def _is_tried(self, stream: Stream) -> bool:
        return stream.index != self._input.clip.stream and not is_part_of_chapters(stream)

    def _is_gone(self, stream: Stream, time_range: TimeRange) -> bool:
        """Return whether a data stream cannot be kept although the muxer accepts it."""
        if stream.type != "data":
            return False
        if is_timecode(stream) and self._input.traits.muxer in ISO:
            # The muxer writes this stream from a tag of the frames; it counts from the first frame.
            return replace(self._input, time_range=time_range).is_cut
        if not self._input.traits.keeps_data or self._input.source is None:
            return True
        known = track_descriptions(self._input.source)
        description = known[stream.index] if stream.index < len(known) else None
        return description is None or not description.is_single

    def _fault(self, left_out: frozenset[int]) -> str:
        """Mux and compare; return the fault as text, or an empty text."""
        part = self._folder / "trial"
        mux_input = replace(self._input, left_out=left_out)
        try:
            result = assemble(mux_input, self._encoded, part)
            verify(mux_input, self._encoded, part, result)
        except EncodeError as error:
            return error.message
        return ""


def _encode(clip: Clip, encoding: Encoding, folder: Path) -> EncodedSegments:
    """Encode gray frames at the beginning of a video."""
    path = folder / "frames.mkv"
    layout = encoding.layout
    gray = tuple(np.full(shape, 1 << (layout.depth - 1), layout.dtype) for shape in layout.shapes)
    encoder = SegmentEncoder(path, encoding)
    for _ in range(_FRAMES):
        encoder.add(gray)
    encoder.finish()
    ticks = max(1, round(1 / (clip.rate * clip.time_base)))
    times = tuple((clip.first + number * ticks, ticks) for number in range(_FRAMES))
    segment = Segment(times=times, delay=encoder.delay, last=0, size=path.stat().st_size, sha256="")
    return EncodedSegments([path], [segment])
