"""Compares a restored clip with its source: frames, times, length, bytes of other streams."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Final

from varfix.engine.errors import EncodeError
from varfix.engine.video.mux import EncodedSegments, MuxInput, MuxResult, offset_of, pts_of
from varfix.engine.video.probe import main_stream, open_container
from varfix.engine.video.streams import ISO, StreamDigest

_MILLISECOND: Final = Fraction(1, 1000)


def verify(wrapping: MuxInput, pieces: EncodedSegments, part: Path, wrapped: MuxResult) -> None:
    """Compare a file with what was to be in it.

    Raises:
        EncodeError: A frame, a time or a byte of another stream is not what it was.
    """
    found: list[tuple[Fraction, Fraction]] = []
    digests: dict[int, StreamDigest] = {}
    with open_container(part) as container:
        main = main_stream(container)
        for packet in container.demux():
            if not packet.size:
                continue
            if packet.stream.index == main.index:
                tick = packet.time_base
                found.append((pts_of(packet) * tick, (packet.duration or 0) * tick))
            elif packet.stream.index in wrapped.digests:
                digests.setdefault(packet.stream.index, StreamDigest(packet.stream)).add(packet)
        lasted = None
        if main.duration is not None and main.time_base is not None:
            lasted = main.duration * main.time_base
    _check_times(wrapping, pieces, sorted(found))
    _check_length(wrapping, pieces, lasted)
    for index, digest in wrapped.digests.items():
        if digest.size and not digest.same_as(digests.get(index)):
            raise EncodeError(f"stream {index} is not what it was in the source")


def _check_length(wrapping: MuxInput, pieces: EncodedSegments, lasted: Fraction | None) -> None:
    """Compare the length that the result's header tells, where it does, within one frame."""
    times = pieces.times
    wanted = (times[-1][0] + times[-1][1] - times[0][0]) * wrapping.clip.time_base
    frame = max(1 / wrapping.clip.rate, times[-1][1] * wrapping.clip.time_base)
    if lasted is not None and abs(lasted - wanted) > frame:
        raise EncodeError(f"is {float(lasted):.3f} s long instead of {float(wanted):.3f} s")


def _check_times(
    wrapping: MuxInput, pieces: EncodedSegments, found: list[tuple[Fraction, Fraction]]
) -> None:
    tick, offset = wrapping.clip.time_base, offset_of(wrapping)
    wanted = [((pts - offset) * tick, lasts * tick) for pts, lasts in pieces.times]
    if len(found) != len(wanted):
        raise EncodeError(f"{len(found)} frames came out, {len(wanted)} went in")
    # Matroska counts milliseconds, and moves all streams alike where one begins below zero.
    slack = _MILLISECOND if wrapping.traits.muxer not in ISO else tick / 2
    moved = found[0][0] - wanted[0][0]
    if abs(moved) > Fraction(1, 5) or (wrapping.traits.muxer in ISO and abs(moved) > slack):
        raise EncodeError(f"the first frame moved by {float(moved):.4f} s")
    for number, ((at, _), (due, _)) in enumerate(zip(found, wanted, strict=True)):
        if abs(at - moved - due) > slack:
            raise EncodeError(f"frame {number} is at {float(at):.4f} s, not {float(due):.4f} s")
