"""Opens the file of a result, and inserts data that FFmpeg's muxer cannot write."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Final

from varfix.engine.video.clip import Clip
from varfix.engine.video.containers import av_path
from varfix.engine.video.mux.iso_boxes import put_descriptions
from varfix.engine.video.mux.matroska_header import append_chapters, chapters_of, set_aspect
from varfix.engine.video.mux.mux_input import MuxResult
from varfix.engine.video.mux.streams import ISO, MATROSKA

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.container.core import Chapter

# Hours must fit into 32 bits of the movie's own ticks.
_MAX_TIMESCALE: Final = 1_000_000
# Characters with a meaning in the file names of the muxer `tee`.
_SPECIAL: Final = re.compile(r"([\\'|\s])")


@dataclass(frozen=True)
class OutputForm:
    """How to write a container.

    Attributes:
        muxer: FFmpeg's name of the muxer.
        any_codec: Write Matroska through the muxer `tee`. Matroska holds any codec that Windows
            has an identifier for, but PyAV offers its muxer only the codecs with own identifiers.
        has_data: Data tracks are copied: the movie box must stay at the end, where it may grow.
        dotted_tags: Tags such as com.apple.quicktime.make are kept, which MP4 stores apart.
    """

    muxer: str
    any_codec: bool = False
    has_data: bool = False
    dotted_tags: bool = False

    def options(self, clip: Clip) -> dict[str, str]:
        """Return the muxer's options: deterministic output, times as exact as possible."""
        options = {"fflags": "+bitexact"}
        if self.muxer in ISO:
            flags = "" if self.has_data else "+faststart"
            flags += "+use_metadata_tags" if self.dotted_tags else ""
            options |= {"movflags": flags} if flags else {}
            ticks = math.lcm(1000, clip.time_base.denominator)
            options["movie_timescale"] = str(
                ticks if ticks <= _MAX_TIMESCALE else clip.time_base.denominator
            )
        return options


@contextmanager
def open_output(part: Path, form: OutputForm, clip: Clip) -> Iterator[OutputContainer]:
    """Open a file to write; it is complete after the block."""
    import av

    options = form.options(clip)
    if form.any_codec:
        listed = ":".join(f"{key}={value}" for key, value in options.items())
        name = _SPECIAL.sub(r"\\\1", av_path(part))
        with av.open(f"[f={form.muxer}:{listed}]{name}", "w", format="tee") as out:
            yield out
        return
    with av.open(av_path(part), "w", format=form.muxer, container_options=options) as out:
        yield out


@dataclass(frozen=True)
class Additions:
    """Data that is inserted into the finished file.

    Attributes:
        clip: Header of the source.
        track: Number of the track of the frames.
        chapters: The chapters.
    """

    clip: Clip
    track: int
    chapters: Sequence[Chapter]

    def write(self, part: Path, form: OutputForm, result: MuxResult) -> None:
        """Complete a file.

        Raises:
            EncodeError: The file has no space for it.
        """
        if form.muxer in MATROSKA and self.clip.aspect not in (None, Fraction(1)):
            set_aspect(part, self.track, self.clip.aspect)
        if form.any_codec and self.chapters:
            append_chapters(part, _stored_chapters(self.chapters))
        if result.descriptions:
            put_descriptions(part, result.descriptions)


def _stored_chapters(chapters: Sequence[Chapter]) -> bytes:
    """Return chapters as Matroska stores them."""
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as out:
        out.add_stream("ffv1", rate=25)
        out.set_chapters(list(chapters))
        out.start_encoding()
    return chapters_of(target.getvalue())
