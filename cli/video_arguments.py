"""The options of `varfix video`, and types of its arguments."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from varfix.cli.options import ModelOptions, dry_run_option, option, options_record
from varfix.cli.terminal import Terminal

if TYPE_CHECKING:
    from varfix.engine.settings.resolve import Resolved
    from varfix.engine.video.clip import TimeRange

    _TimeOffsetType = click.ParamType[Fraction]
else:
    _TimeOffsetType = click.ParamType


class TimeOffset(_TimeOffsetType):
    """A time in a video: `90`, `1:30`, `1:02:03.5`."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Fraction:
        """Return the seconds."""
        if isinstance(value, Fraction):
            return value
        parts = str(value).split(":")
        try:
            numbers = [Fraction(part) for part in parts]
        except (ValueError, ZeroDivisionError):
            numbers = []
        if not numbers or len(numbers) > 3 or any(n < 0 for n in numbers) or "/" in str(value):
            self.fail(f"'{value}' is not a time such as 90, 1:30 or 1:02:03.5", param, ctx)
        wrong = next((part for part in parts[1:] if Fraction(part) >= 60), None)
        if wrong is not None:
            self.fail(
                f"'{value}' has {wrong} in it: minutes and seconds are below 60 after a colon"
                " (write 90 or 1:30 for a minute and a half)",
                param,
                ctx,
            )
        seconds = Fraction(0)
        for number in numbers:
            seconds = seconds * 60 + number
        return seconds


class VideoPath(click.Path):
    """A file, or a pattern of numbered images."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the name; anything that exists, or names images, is accepted."""
        from varfix.engine.video.sources.numbered_images import is_pattern

        is_images = value != "-" and is_pattern(Path(value))
        return value if is_images else super().convert(value, param, ctx)


@dataclass(frozen=True)
class VideoOptions:
    """The part of a video, and how it is stored."""

    codec: str | None
    crf: int | None
    begin: Fraction | None
    end: Fraction | None
    sample: Fraction | None
    preview: Fraction | None
    streams: str | None
    fps: float | None
    deinterlace: bool
    overwrite: bool
    dry_run: bool

    def resolve(self, model: ModelOptions, terminal: Terminal) -> Resolved:
        """Return the settings with those of these options."""
        settings: dict[str, Any] = {
            "video.codec": self.codec,
            "video.crf": self.crf,
            "video.fps": self.fps,
            "video.streams": self.streams,
            "video.compare": None if self.preview is None else True,
        }
        is_set = any(text.startswith("video.interlaced=") for text in model.assignments)
        if self.deinterlace and not is_set:
            settings["video.interlaced"] = "frames"
        return model.resolve(terminal, settings)

    def cut(self, seconds: Fraction | None) -> TimeRange:
        """Return the requested part of a video of that length.

        Raises:
            click.UsageError: Both --sample and --from or --to are given.
        """
        from varfix.engine.video.clip import TimeRange

        length = self.sample if self.preview is None else self.preview
        if length is None:
            return TimeRange(self.begin, self.end)
        if self.preview is not None and self.sample is None and self.end is None and self.begin:
            return TimeRange(self.begin, self.begin + length)
        if self.begin is not None or self.end is not None or length in (None, 0):
            raise click.UsageError("--sample cannot be combined with --from or --to")
        if seconds is None or seconds <= length:
            return TimeRange()
        begin = (seconds - length) / 2
        return TimeRange(begin, begin + length)


video_options = options_record(
    "options",
    VideoOptions,
    option(
        "Output",
        "--codec",
        metavar="NAME",
        help="auto, h264, hevc, av1, ffv1 (lossless), prores, or the name of an FFmpeg encoder,"
        " such as hevc_nvenc. 'auto' is the codec of the source or its successor."
        "  [default: auto]",
    ),
    option(
        "Output",
        "--crf",
        type=click.IntRange(0, 63),
        metavar="N",
        help="Constant rate factor: lower is better and larger."
        "  [default: h264 17, hevc 18, av1 22]",
    ),
    option(
        "Selection",
        "--from",
        "begin",
        type=TimeOffset(),
        metavar="T",
        help="Start at this time, such as 90 or 1:30.",
    ),
    option(
        "Selection", "--to", "end", type=TimeOffset(), metavar="T", help="End before this time."
    ),
    option(
        "Selection",
        "--sample",
        type=TimeOffset(),
        metavar="SEC",
        help="Restore only SEC seconds from the middle: a preview of the run.",
    ),
    option(
        "Selection",
        "--preview",
        type=TimeOffset(),
        metavar="SEC",
        help="Restore SEC seconds from the middle, or from --from on, and show the source on the"
        " left of the result. Without DST, the result is NAME.preview.EXT.",
    ),
    option(
        "Selection",
        "--fps",
        type=click.FloatRange(0, 1000, min_open=True),
        metavar="N",
        help="Frames per second of numbered images (SRC is a pattern such as frames/%04d.png)."
        "  [default: 25]",
    ),
    option(
        "Restoration",
        "--deinterlace",
        is_flag=True,
        help="Deinterlace interlaced video, with one frame for each frame; progressive frames stay."
        " For one frame for each field, add --set video.interlaced=fields.",
    ),
    option(
        "Output",
        "--streams",
        metavar="all|none|LIST",
        help="Streams to copy besides the images: all (or copy), none, or those in a list such as"
        " 0:a:0,0:s:m:language:eng (as in FFmpeg's -map). Subtitles of plain text are converted"
        " where the container needs that.  [default: all]",
    ),
    option("Output", "--overwrite", is_flag=True, help="Replace DST if it exists."),
    dry_run_option,
)
