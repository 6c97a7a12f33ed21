"""Types of arguments of `varfix video`: times, and sources that may be numbered images."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
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
