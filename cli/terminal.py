"""Messages for people: all go to stderr, so that stdout carries only data."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal

import click

from varfix.cli.stdio import discard

if TYPE_CHECKING:
    from rich.console import Console

ColorMode = Literal["auto", "always", "never"]

# Control characters except line ends, tabs, and varfix's own color codes.
_CONTROL: Final = re.compile(r"(?!\x1b\[[0-9;]*m)[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal:
    """Writes to stderr; shared by messages and progress, so that lines are not torn.

    The options `-q`, `-v` and `--color` set the attributes while the command line is parsed.

    Attributes:
        quiet: Show errors only.
        verbose: How many times `-v` was given; from 2 on, errors include a traceback.
        color: Whether to color; `auto` depends on stderr.
    """

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = 0
        self.color: ColorMode = "auto"
        self._live: Console | None = None

    @property
    def animated(self) -> bool:
        """Whether to show moving lines: stderr is a capable terminal, and no `-q`."""
        return not self.quiet and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def colored(self) -> bool:
        """Whether to color, by `--color`, then NO_COLOR, FORCE_COLOR and TERM=dumb."""
        if self.color != "auto":
            return self.color == "always"
        if os.environ.get("NO_COLOR"):
            return False
        if os.environ.get("FORCE_COLOR"):
            return True
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def say(self, text: str) -> None:
        """Show a message, unless `-q`."""
        if not self.quiet:
            self._print(text)

    def detail(self, text: str) -> None:
        """Show a message with `-v` only."""
        if self.verbose:
            self.say(text)

    def warn(self, text: str) -> None:
        """Show a warning, unless `-q`."""
        self.say(click.style("Warning: ", fg="yellow") + text)

    def error(self, text: str) -> None:
        """Show an error, always."""
        self._print(click.style("Error: ", fg="red", bold=True) + text)

    @contextmanager
    def busy(self, text: str) -> Iterator[None]:
        """Show that a slow step is running until the block ends."""
        if not self.animated:
            self.say(f"{text}...")
            yield
            return
        # Before Rich is imported, which takes a moment.
        click.echo(f"{text}...", err=True, nl=False)
        console = self.console()
        click.echo("\r\x1b[2K", err=True, nl=False)
        with self.owned_by(console), console.status(text):
            yield

    def console(self) -> Console:
        """Return a Rich console on stderr with the color setting of this terminal."""
        from rich.console import Console

        color_system: Literal["auto", "standard"] | None = "auto" if self.animated else "standard"
        return Console(
            stderr=True,
            color_system=color_system if self.colored else None,
            force_terminal=self.animated,
            no_color=not self.colored,
            highlight=False,
        )

    @contextmanager
    def owned_by(self, console: Console) -> Iterator[None]:
        """Print messages through `console` while it shows live lines."""
        self._live = console
        try:
            yield
        finally:
            self._live = None

    def _print(self, text: str) -> None:
        text = printable(text)
        live = self._live
        if live is None:
            self._echo(text)
            return
        from rich.text import Text

        live.print(Text.from_ansi(text), soft_wrap=True)

    def _echo(self, text: str) -> None:
        try:
            click.echo(text, err=True, color=self.colored)
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            # stderr on a full disk: a lost message must not fail the run.
            discard(sys.stderr)


def printable(text: str) -> str:
    """Escape control characters, which file names may contain."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def join_hint(message: str, hint: str | None) -> str:
    """Join the message and the hint of an error into one line."""
    return f"{message}; {hint}" if hint else message
