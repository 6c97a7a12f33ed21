"""What people read: every message goes to stderr, so that stdout carries nothing but data."""

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

# Control characters but for line ends, tabs, and the colors that varfix itself puts in.
_CONTROL: Final = re.compile(r"(?!\x1b\[[0-9;]*m)[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal:
    """One run's voice on stderr, shared by messages and progress so that neither tears the other.

    The options `-q`, `-v` and `--color` set the attributes while the command line is parsed.

    Attributes:
        quiet: Only errors are shown.
        verbose: How many times `-v` was given; from 2 on, errors come with a traceback.
        color: Whether to color, `auto` by what stderr is.
    """

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = 0
        self.color: ColorMode = "auto"
        self._live: Console | None = None

    @property
    def animated(self) -> bool:
        """Whether moving lines are welcome: stderr is a capable terminal and `-q` was not given."""
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
        """Show a message that only `-v` asks for."""
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
        """Show that something slow is going on, from the first moment until the block ends."""
        if not self.animated:
            self.say(f"{text}...")
            yield
            return
        # Said before Rich is imported: the first sign of life must not wait for it.
        click.echo(f"{text}...", err=True, nl=False)
        console = self.console()
        click.echo("\r\x1b[2K", err=True, nl=False)
        with self.owned_by(console), console.status(text):
            yield

    def console(self) -> Console:
        """Return a Rich console on stderr that colors as this terminal does."""
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
        """Send messages through `console` while it keeps lines at the bottom of the screen."""
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
            # Messages on a full disk: what cannot be told costs no image.
            discard(sys.stderr)


def printable(text: str) -> str:
    """Return a text in which nothing moves the cursor: names of files may hold such characters."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def worded(message: str, hint: str | None) -> str:
    """Join what went wrong and what to do next into one line.

    A hint that begins in small letters continues the sentence, unless that has ended.
    """
    if not hint:
        return message
    if message.endswith((".", "!", "?")):
        return f"{message} {hint}"
    return f"{message}; {hint}" if hint[0].islower() else f"{message}. {hint}"
