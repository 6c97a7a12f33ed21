"""Options that select the images of a folder, and the record that holds their values."""

from __future__ import annotations

import codecs
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from varfix.cli.options import CountOrAuto, option, options_record

if TYPE_CHECKING:
    from varfix.engine.batch.plan import BatchRequest


@dataclass(frozen=True)
class Selection:
    """Selected images, and threads."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    flat: bool
    files_from: str | None
    null: bool
    sample: int | None
    jobs: int | str | None
    fail_fast: bool

    def listed(self) -> tuple[str, ...] | None:
        """Read the names of `--files-from`; they may be any bytes.

        Raises:
            click.UsageError: The list cannot be read, or `-0` is missing or not allowed.
        """
        place = self.files_from
        if place is None:
            if self.null:
                raise click.UsageError("-0 requires --files-from")
            return None
        try:
            data = sys.stdin.buffer.read() if place == "-" else Path(place).read_bytes()
        except OSError as error:
            raise click.UsageError(f"--files-from {place}: {error.strerror or error}") from error
        if not self.null and b"\0" in data:
            raise click.UsageError(
                f"--files-from {place}: contains NUL bytes; use -0 for NUL-separated names, or save"
                " the list as UTF-8 lines"
            )
        data = data.removeprefix(codecs.BOM_UTF8)  # written by editors and shells on Windows
        names = data.split(b"\0") if self.null else data.splitlines()
        return tuple(os.fsdecode(name) for name in names if name)

    def request(self, files: tuple[str, ...] | None, **output: Any) -> BatchRequest:
        """Return the selection for the engine.

        Args:
            files: The result of `listed`.
            output: The other fields of `BatchRequest`, about the results.
        """
        from varfix.engine.batch.plan import BatchRequest
        from varfix.engine.storage.scan import Filters

        filters = Filters(self.include, self.exclude, recursive=not self.flat)
        return BatchRequest(filters=filters, files=files, sample=self.sample, **output)


selection_options = options_record(
    "selection",
    Selection,
    option(
        "Selection",
        "--include",
        multiple=True,
        metavar="GLOB",
        help="Only matching images; .gitignore syntax; may be repeated.",
    ),
    option(
        "Selection",
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="Exclude matching images; .gitignore syntax; may be repeated.",
    ),
    option(
        "Selection", "--no-recursive", "flat", is_flag=True, help="Do not descend into subfolders."
    ),
    option(
        "Selection",
        "--files-from",
        metavar="FILE|-",
        help="Only the images listed in a file or on stdin, one per line. Names are relative to"
        " SRC or to the current folder.",
    ),
    option(
        "Selection",
        "-0",
        "null",
        is_flag=True,
        help="Names in the list are NUL-separated, as written by 'fd -0'.",
    ),
    option(
        "Selection",
        "--sample",
        type=click.IntRange(min=1),
        metavar="N",
        help="Only N images, evenly spaced: a preview of the run.",
    ),
    option(
        "Machine",
        "-j",
        "--jobs",
        type=CountOrAuto(),
        metavar="auto|N",
        help="Number of decoder threads; as many encoder threads are started.  [default: auto]",
    ),
    option("Machine", "--fail-fast", is_flag=True, help="Stop at the first image that fails."),
)
