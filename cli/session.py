"""What `dir` and `image` do alike: open the model, report, listen to signals, run the plan."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from varfix.cli.options import EventOptions
from varfix.cli.signals import listening
from varfix.cli.terminal import Terminal
from varfix.engine.errors import ExitCode
from varfix.engine.stop import StopRequest

if TYPE_CHECKING:
    from varfix.cli.ndjson import Sink
    from varfix.cli.progress import LiveProgress, PlainProgress
    from varfix.engine.events import Event, Observer, Warn
    from varfix.engine.options import Options
    from varfix.engine.plan import Plan
    from varfix.engine.settings import Settings
    from varfix.onnx.session import OnnxRestorer


@dataclass(frozen=True)
class Opened:
    """A model ready to run, and the digest over all of its graphs."""

    restorer: OnnxRestorer
    sha256: str


class Session:
    """One run as seen from the command line.

    Attributes:
        settings: What was resolved from all layers.
        stop: Asked by signals, or by a reader of the events who went away.
    """

    def __init__(
        self, settings: Settings, terminal: Terminal, events: EventOptions, preset: str
    ) -> None:
        self.settings = settings
        self.stop = StopRequest()
        self._terminal = terminal
        self._events = events
        self._preset = preset
        self._early: list[Warn] = []
        self._observer: Observer | None = None

    def opened(self) -> Opened:
        """Load the model.

        Raises:
            ModelError: The model is missing or not one that varfix runs.
            DeviceError: A device asked for by name is not there.
        """
        name = self.settings.model.name
        with self._terminal.busy(f"Loading {name}"):
            from varfix.onnx.session import open_restorer
            from varfix.onnx.store import model_digest

            restorer = open_restorer(name, self.settings, warn=self._warn)
            return Opened(restorer, model_digest(name))

    def run(
        self, plan: Plan, opened: Opened, options: Options, also: Observer | None = None
    ) -> int:
        """Carry out `plan` with progress and events, told to `also` too; return the exit code."""
        from varfix.engine.batch import run_batch

        with ExitStack() as stack:
            self._observer, shown = stack.enter_context(self._reporting(also))
            drop = options.publisher.drop
            stack.enter_context(listening(self.stop, self._terminal.say, shown.status, drop))
            summary = run_batch(plan, opened.restorer, self.settings, self._observer, options)
        return summary.exit_code

    def _warn(self, code: str, message: str) -> None:
        """Tell what the model could not have: before the run only to people, later to everyone."""
        from varfix.engine.events import Warn

        event = Warn(code=code, message=message)
        if self._observer is not None:
            self._observer(event)
            return
        self._terminal.warn(message)
        self._early.append(event)

    @contextmanager
    def _reporting(
        self, also: Observer | None
    ) -> Iterator[tuple[Observer, PlainProgress | LiveProgress]]:
        """Open every place that events go to, and join them."""
        from varfix.cli.ndjson import EventLog
        from varfix.cli.progress import progress
        from varfix.engine.events import RunStart

        with ExitStack() as stack:
            log = EventLog(self._sinks(stack))
            others: list[Observer] = [log] if also is None else [log, also]
            shown = stack.enter_context(progress(self._terminal, self._preset))

            def observer(event: Event) -> None:
                shown(event)
                # A run's first event is `run.start`: what was known before it comes right after.
                early = self._early if isinstance(event, RunStart) else []
                for told in (event, *early):
                    for other in others:
                        other(told)

            yield observer, shown

    def _sinks(self, stack: ExitStack) -> list[Sink]:
        from varfix.cli.ndjson import Sink, log_file

        sinks = []
        if self._events.as_json:
            sinks.append(Sink("stdout", sys.stdout.buffer, lambda: self.stop.ask(ExitCode.SIGPIPE)))
        if self._events.log_file is not None:
            sinks.append(stack.enter_context(log_file(self._events.log_file)))
        return sinks
