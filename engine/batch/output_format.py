"""The format of an image's result, and whether that format can hold the image."""

from __future__ import annotations

from pathlib import Path

from varfix.engine.batch.item import Item
from varfix.engine.errors import AlphaLostError, DecodeError
from varfix.engine.formats import check_output, format_of
from varfix.engine.image.reader import has_transparency
from varfix.engine.settings.types import Settings
from varfix.engine.storage.identity import FetchedFile
from varfix.engine.system.display_names import single_line


def format_for(source: str, target: str, settings: Settings) -> str:
    """Return the format of a result: as set, else as the target's extension says, else `keep`.

    A file whose extension is wrong about its content keeps its format.

    Args:
        source: Name of the source.
        target: Name of the result.
        settings: The settings.
    """
    named = format_of(target)
    if settings.output.format != "keep" or named is None or named == format_of(source):
        return settings.output.format
    return named


def check_header(name: str, item: Item, settings: Settings) -> None:
    """Check that the output format can hold an image, as far as its header is known.

    Raises:
        PlanError: The format cannot hold the image.
    """
    if item.header is None:
        return
    wanted = format_for(item.source.name, item.target.name, settings)
    try:
        check_output(name, item.header, wanted, settings.output.flatten)
    except AlphaLostError:
        # An alpha channel that is opaque everywhere is no loss; decoding it is expensive.
        if item.source.path is not None and _is_transparent(item.source.path, settings):
            raise


def check_fetched(item: Item, fetched: FetchedFile, settings: Settings) -> None:
    """Check the same when the image has been fetched, if the plan did not know its header.

    Raises:
        PlanError: The format cannot hold the image.
    """
    if item.header is not None:
        return
    wanted = format_for(item.source.name, item.target.name, settings)
    try:
        check_output(
            single_line(item.source.event_name), fetched.header, wanted, settings.output.flatten
        )
    except AlphaLostError:
        if has_transparency(fetched.data, max_pixels=settings.limits.max_pixels):
            raise


def _is_transparent(path: Path, settings: Settings) -> bool:
    try:
        return has_transparency(path.read_bytes(), max_pixels=settings.limits.max_pixels)
    except (DecodeError, OSError):
        return False
