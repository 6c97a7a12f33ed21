"""`--in-place` and `--backup` of `varfix dir`: replace images, keep the originals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from varfix.cli.options import option, options_record
from varfix.cli.terminal import Terminal

if TYPE_CHECKING:
    from varfix.engine.settings.types import Settings
    from varfix.engine.storage.store import Place


@dataclass(frozen=True)
class InPlaceOptions:
    """Whether results replace their sources, and where the originals are kept."""

    in_place: bool
    backup: Path | None

    def check(self, src: Place, dst: Place | None, *, is_cluster: bool, name: str | None) -> None:
        """Check that the options fit the others, before a model is loaded.

        Args:
            src: The source.
            dst: The destination, if it was given.
            is_cluster: The run is on a cluster.
            name: The template of names, if it was given.

        Raises:
            click.UsageError: They do not.
        """
        if not self.in_place:
            if self.backup is not None:
                raise click.UsageError("--backup requires --in-place")
            if dst is None:
                raise click.UsageError("Missing argument 'DST' (or use --in-place).")
            return
        if dst is not None:
            raise click.UsageError("--in-place takes one folder: the results replace its images")
        if not isinstance(src, Path):
            raise click.UsageError("--in-place requires a folder on a disk, not an address")
        if is_cluster:
            raise click.UsageError("--in-place works on this machine only: leave out --cluster")
        if name is not None:
            raise click.UsageError("--in-place keeps the names of the images: leave out --name")

    def target(self, src: Place, dst: Place | None, settings: Settings) -> Place:
        """Return where the results go; call `check` before.

        Raises:
            PlanError: Results would have another format, or the originals are elsewhere.
        """
        if dst is not None:
            return dst
        from varfix.engine.errors import PlanError
        from varfix.engine.storage.in_place import open_in_place

        assert isinstance(src, Path)
        if settings.output.format != "keep":
            raise PlanError(
                "--in-place keeps the formats of the images, but output.format is"
                f" {settings.output.format}",
                hint="use --format keep, or name another folder for the results",
            )
        return open_in_place(src, self.backup)

    def announce(self, src: Place, target: Place, terminal: Terminal) -> None:
        """Say where the originals are, after a run in place that kept some."""
        from varfix.engine.storage.in_place import InPlaceStore

        if isinstance(target, InPlaceStore) and target.originals.names():
            backup = "" if self.backup is None else f"--backup {self.backup} "
            terminal.say(
                f"originals are in {target.originals.folder};"
                f" 'varfix undo {backup}{src}' brings them back"
            )


in_place_options = options_record(
    "placing",
    InPlaceOptions,
    option(
        "Output",
        "--in-place",
        is_flag=True,
        help="Replace the images of SRC by their results; no DST. Every original is kept in"
        " SRC/.varfix/originals, under its name; 'varfix undo SRC' brings all of them back.",
    ),
    option(
        "Output",
        "--backup",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="With --in-place: keep the originals in this folder instead.",
    ),
)
