"""Compares a restored video with its source: frames, times, length, bytes of other streams."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Final

from varfix.engine.errors import EncodeError
from varfix.engine.video.containers import main_stream, open_container
from varfix.engine.video.mux.assemble import pts_of
from varfix.engine.video.mux.iso_boxes import track_descriptions
from varfix.engine.video.mux.mux_input import EncodedSegments, MuxInput, MuxResult
from varfix.engine.video.mux.streams import (
    ISO,
    StreamDigest,
    StreamKey,
    keyed,
)
from varfix.engine.video.probe import stream_seconds

_MILLISECOND: Final = Fraction(1, 1000)


class _Found:
    """Streams and frames of a written file."""

    def __init__(self, part: Path) -> None:
        self.frames: list[tuple[Fraction, Fraction]] = []
        self.digests: dict[StreamKey, StreamDigest] = {}
        with open_container(part) as container:
            main = main_stream(container)
            keys = {stream.index: key for key, stream in keyed(container.streams)}
            for stream in container.streams:
                if stream.index in keys and stream.index != main.index:
                    self._add(keys[stream.index], stream)
            for packet in container.demux():
                if packet.size and packet.stream.index == main.index:
                    tick = packet.time_base
                    self.frames.append((pts_of(packet) * tick, (packet.duration or 0) * tick))
                elif packet.size and packet.stream.index in keys:
                    self.digests[keys[packet.stream.index]].add(packet)
            self.frames.sort()
            # What FFmpeg says of the begin is wrong with few frames that are stored out of order.
            first = self.frames[0][0] if self.frames else None
            self.duration = stream_seconds(container, main, first)

    def _add(self, key: StreamKey, stream: object) -> None:
        from av.stream import AttachmentStream, Stream

        assert isinstance(stream, Stream)
        digest = self.digests[key] = StreamDigest(stream)
        if isinstance(stream, AttachmentStream):
            digest.add_bytes(bytes(stream.data))


def verify(mux_input: MuxInput, encoded: EncodedSegments, part: Path, result: MuxResult) -> None:
    """Compare a written file with its input.

    Args:
        mux_input: The source.
        encoded: The frames that were written.
        part: The written file.
        result: The other streams that were written.

    Raises:
        EncodeError: A frame, a time or a byte of another stream differs.
    """
    found = _Found(part)
    shift = _check_times(mux_input, encoded, found.frames)
    _check_length(mux_input, encoded, found.duration)
    for key, digest in result.digests.items():
        kind = "attachment" if key[0] else "stream"
        other = found.digests.get(key)
        if digest.size and not digest.same_as(other):
            raise EncodeError(f"{kind} {key[1]} differs from the source")
        _check_begin(f"{kind} {key[1]}", digest, other, shift)
    _check_descriptions(part, result)


def _check_begin(
    name: str, digest: StreamDigest, other: StreamDigest | None, shift: Fraction
) -> None:
    """Compare the time of a stream's first packet with that of the frames."""
    if other is None or digest.first is None or other.first is None:
        return
    drift = other.first - digest.first - shift
    if abs(drift) > _MILLISECOND:
        raise EncodeError(f"{name} moved by {float(drift):.4f} s")


def _check_descriptions(part: Path, result: MuxResult) -> None:
    if not result.descriptions:
        return
    found = track_descriptions(part)
    for number, wanted in result.descriptions.items():
        if number >= len(found) or found[number] != wanted:
            raise EncodeError(f"track {number} has lost the type of its data")


def _check_length(mux_input: MuxInput, encoded: EncodedSegments, duration: Fraction | None) -> None:
    """Compare the length in the result's header, if it has one, within one frame."""
    times = encoded.times
    wanted = (times[-1][0] + times[-1][1] - times[0][0]) * mux_input.clip.time_base
    frame = max(1 / mux_input.clip.rate, times[-1][1] * mux_input.clip.time_base)
    if duration is not None and abs(duration - wanted) > frame:
        raise EncodeError(f"wrote {float(duration):.3f} s, expected {float(wanted):.3f} s")


def _check_times(
    mux_input: MuxInput, encoded: EncodedSegments, found: list[tuple[Fraction, Fraction]]
) -> Fraction:
    """Compare the times of all frames; return by how much the container moved all of them."""
    tick, offset = mux_input.clip.time_base, mux_input.offset(encoded.times[0][0])
    wanted = [((pts - offset) * tick, lasts * tick) for pts, lasts in encoded.times]
    if len(found) != len(wanted):
        raise EncodeError(f"wrote {len(found)} frames, expected {len(wanted)}")
    # Matroska counts milliseconds, and moves all streams alike if one begins below zero.
    slack = _MILLISECOND if mux_input.traits.muxer not in ISO else tick / 2
    shift = found[0][0] - wanted[0][0]
    if abs(shift) > Fraction(1, 5) or (mux_input.traits.muxer in ISO and abs(shift) > slack):
        raise EncodeError(f"the first frame moved by {float(shift):.4f} s")
    for number, ((at, _), (due, _)) in enumerate(zip(found, wanted, strict=True)):
        if abs(at - shift - due) > slack:
            raise EncodeError(
                f"frame {number} is at {float(at):.4f} s, expected {float(due):.4f} s"
            )
    return shift
