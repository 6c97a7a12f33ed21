"""Which streams besides the frames are copied, as FFmpeg's option -map names them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from av.stream import Stream

COPY: Final = "copy"
NONE: Final = "none"
_SPECIFIER: Final = re.compile(
    r"(?:0:)?(?:(?P<index>\d+)|(?P<kind>[vasdt])?"
    r"(?::?m:language:(?P<language>\w+))?(?::(?P<number>\d+))?)"
)
_KINDS: Final = {"v": "video", "a": "audio", "s": "subtitle", "d": "data", "t": "attachment"}


def selected_streams(text: str, streams: Iterable[Stream]) -> frozenset[int]:
    """Return the indexes of the streams that a selection names.

    Args:
        text: `copy`, `none`, or specifiers separated by commas: `0:3` (the stream 3), `0:a` (all
            sound), `0:a:0` (the first), `0:a:m:language:eng` (by language).
        streams: The streams of the source.
    """
    streams = list(streams)
    if text == COPY:
        return frozenset(stream.index for stream in streams)
    chosen = (_named(specifier, streams) for specifier in text.split(",") if text != NONE)
    return frozenset(index for indexes in chosen for index in indexes)


def missing_specifiers(text: str, streams: Iterable[Stream]) -> list[str]:
    """Return the specifiers of a selection that name no stream."""
    streams = list(streams)
    if text in (COPY, NONE):
        return []
    return [specifier for specifier in text.split(",") if not _named(specifier, streams)]


def _named(specifier: str, streams: list[Stream]) -> list[int]:
    match = _SPECIFIER.fullmatch(specifier.strip())
    if match is None or not any(match.groups()):
        return []
    if match["index"]:
        return [stream.index for stream in streams if stream.index == int(match["index"])]
    kind, language = match["kind"], match["language"]
    found = [
        stream.index
        for stream in streams
        if (kind is None or stream.type == _KINDS[kind])
        and (language is None or stream.metadata.get("language") == language)
    ]
    return found if match["number"] is None else found[int(match["number"]) :][:1]
