"""Compares a restored video with its source: frames, times, length, bytes of other streams."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Final

from varfix.engine.errors import EncodeError
from varfix.engine.video.mux import EncodedSegments, MuxInput, MuxResult, offset_of, pts_of
from varfix.engine.video.probe import main_stream, open_container
from varfix.engine.video.streams import ISO, StreamDigest

_MILLISECOND: Final = Fraction(1, 1000)


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
            elif packet.stream.index in result.digests:
                digests.setdefault(packet.stream.index, StreamDigest(packet.stream)).add(packet)
        duration = None
        if main.duration is not None and main.time_base is not None:
            duration = main.duration * main.time_base
    _check_times(mux_input, encoded, sorted(found))
    _check_length(mux_input, encoded, duration)
    for index, digest in result.digests.items():
        if digest.size and not digest.same_as(digests.get(index)):
            raise EncodeError(f"stream {index} differs from the source")


def _check_length(mux_input: MuxInput, encoded: EncodedSegments, duration: Fraction | None) -> None:
    """Compare the length in the result's header, if it has one, within one frame."""
    times = encoded.times
    wanted = (times[-1][0] + times[-1][1] - times[0][0]) * mux_input.clip.time_base
    frame = max(1 / mux_input.clip.rate, times[-1][1] * mux_input.clip.time_base)
    if duration is not None and abs(duration - wanted) > frame:
        raise EncodeError(f"wrote {float(duration):.3f} s, expected {float(wanted):.3f} s")


def _check_times(
    mux_input: MuxInput, encoded: EncodedSegments, found: list[tuple[Fraction, Fraction]]
) -> None:
    tick, offset = mux_input.clip.time_base, offset_of(mux_input)
    wanted = [((pts - offset) * tick, lasts * tick) for pts, lasts in encoded.times]
    if len(found) != len(wanted):
        raise EncodeError(f"wrote {len(found)} frames, expected {len(wanted)}")
    # Matroska counts milliseconds, and moves all streams alike if one begins below zero.
    slack = _MILLISECOND if mux_input.traits.muxer not in ISO else tick / 2
    moved = found[0][0] - wanted[0][0]
    if abs(moved) > Fraction(1, 5) or (mux_input.traits.muxer in ISO and abs(moved) > slack):
        raise EncodeError(f"the first frame moved by {float(moved):.4f} s")
    for number, ((at, _), (due, _)) in enumerate(zip(found, wanted, strict=True)):
        if abs(at - moved - due) > slack:
            raise EncodeError(
                f"frame {number} is at {float(at):.4f} s, expected {float(due):.4f} s"
            )
