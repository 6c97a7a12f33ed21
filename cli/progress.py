"""Progress for people, on stderr: moving lines on a terminal, one line per image elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from varfix.cli.findings_text import done_text
from varfix.cli.run_stats import RunStats, headline
from varfix.cli.terminal import Terminal, join_hint
from varfix.engine.events import (
    Event,
    ItemDone,
    ItemFail,
    ItemSkip,
    RunStart,
    Warn,
)
from varfix.engine.system.display_names import single_line

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

_LONGEST_GAP: Final = 5.0


class Stopwatch:
    """Measures seconds since its creation, without the time during which the process was stopped.

    It must be read every few seconds: a longer gap counts as a stop (Ctrl-Z).
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._last = time.monotonic()

    def read(self) -> float:
        """Return the seconds so far."""
        now = time.monotonic()
        self._seconds += min(now - self._last, _LONGEST_GAP)
        self._last = now
        return self._seconds


class PlainProgress:
    """Prints one line for each finished item.

    Attributes:
        tally: The counts.
    """

    def __init__(self, terminal: Terminal, preset: str) -> None:
        self.tally = RunStats()
        self._terminal = terminal
        self._preset = preset
        self._start = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Count `event`, and print a line if it has one."""
        line = self._line(event)  # before counting: a finished image's size is forgotten then
        self.tally(event)
        if isinstance(event, ItemDone):
            self._terminal.say(f"[{self.tally.finished}/{self.tally.items}] {line}")
        else:
            show_event(event, self._terminal, self._preset)

    def status(self) -> str:
        """Return the progress of the run in one line."""
        return self.tally.status(time.monotonic() - self._start)

    def _line(self, event: Event) -> str:
        if not isinstance(event, ItemDone):
            return ""
        name, size = self.tally.name_of(event.id), self.tally.size_of(event.id)
        found = done_text(event) if self._terminal.verbose else ""
        return f"{name}  {size}  {event.seconds:.2f} s" + (f"  {found}" if found else "")


class LiveProgress:
    """Shows a progress bar, the current image and the device at the bottom of the terminal.

    Attributes:
        tally: The counts.
    """

    def __init__(self, terminal: Terminal, preset: str) -> None:
        self.tally = RunStats()
        self._terminal = terminal
        self._preset = preset
        self._clock = Stopwatch()
        self._bar = _bar()
        self._task = self._bar.add_task("", total=None, pace="")

    def __call__(self, event: Event) -> None:
        """Count `event`; print warnings and failures above the bar, with `-v` also findings."""
        if isinstance(event, ItemDone) and (found := done_text(event)):
            self._terminal.detail(f"{self.tally.name_of(event.id)}: {found}")
        self.tally(event)
        show_event(event, self._terminal, self._preset)

    def __rich__(self) -> RenderableType:
        """Return the three lines; Rich calls this several times a second."""
        from rich.console import Group
        from rich.text import Text

        self._update()
        lines = [Text(text, overflow="ellipsis", no_wrap=True) for text in self._lines()]
        return Group(self._bar, *lines)

    def status(self) -> str:
        """Return the progress of the run in one line."""
        return self.tally.status(self._clock.read())

    def _update(self) -> None:
        tally = self.tally
        self._bar.update(
            self._task,
            total=tally.pixels or None,
            completed=tally.pixels_done,
            description=tally.count,
            pace=tally.pace(self._clock.read()),
        )

    def _lines(self) -> list[str]:
        current = self.tally.current
        line = ""
        if current is not None:
            parts = (current.src, current.size, f"{current.done:.0%}", current.pace)
            line = "  ".join(part for part in parts if part)
        # Mean per image, not a share of the time: stages run in parallel.
        done = max(1, self.tally.ok)
        each = [f"{stage} {spent / done:.2f} s" for stage, spent in self.tally.busy.items()]
        return [line, " · ".join([self.tally.device, *each])]


@contextmanager
def progress(
    terminal: Terminal, preset: str, still: bool = False
) -> Iterator[PlainProgress | LiveProgress]:
    """Show the progress of a run, live on a terminal unless `still`, and then its summary."""
    if still or not terminal.animated:
        plain = PlainProgress(terminal, preset)
        with _summarized(plain.tally, terminal):
            yield plain
        return
    live = LiveProgress(terminal, preset)
    console = terminal.console()
    with _summarized(live.tally, terminal), terminal.owned_by(console), _drawn(live, console):
        yield live


def show_event(event: Event, terminal: Terminal, preset: str) -> None:
    """Print the message of an event, with or without a progress bar."""
    if isinstance(event, RunStart):
        terminal.say(headline(event, preset))
    elif isinstance(event, Warn):
        terminal.warn(event.message)
    elif isinstance(event, ItemFail):
        terminal.error(join_hint(event.message, event.hint))
    elif isinstance(event, ItemSkip):
        terminal.detail(f"skipped {single_line(event.src)} ({event.reason})")


@contextmanager
def _summarized(tally: RunStats, terminal: Terminal) -> Iterator[None]:
    """Print the summary when the block ends, also after an error."""
    try:
        yield
    finally:
        for line in tally.summary():
            terminal.say(line)


@contextmanager
def _drawn(live: LiveProgress, console: Console) -> Iterator[None]:
    from rich.live import Live

    with Live(live, console=console, refresh_per_second=5, transient=True, redirect_stdout=False):
        yield


def _bar() -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[pace]}"),
    )
