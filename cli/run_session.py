"""What `dir` and `image` do alike: open the model, report, listen to signals, run the plan."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from varfix.cli.options import EventOptions
from varfix.cli.signals import listening
from varfix.cli.terminal import Terminal
from varfix.engine.batch.stop import StopRequest
from varfix.engine.errors import ExitCode

if TYPE_CHECKING:
    from varfix.cli.event_log import Sink
    from varfix.cli.progress import LiveProgress, PlainProgress
    from varfix.engine.batch.context import Options
    from varfix.engine.batch.plan import Plan
    from varfix.engine.cluster.pool import Crew
    from varfix.engine.events import Event, Observer, Warn
    from varfix.engine.restoration.restorer import Restorer
    from varfix.engine.settings.types import Settings
    from varfix.onnx.inference.open_model import OnnxRestorer


Model = TypeVar("Model", bound="Restorer", covariant=True)


@dataclass(frozen=True)
class Opened(Generic[Model]):
    """A model ready to run, and the digest over all of its graphs.

    Attributes:
        restorer: the model; with a crew, that of one of its workers.
        sha256: the digest.
        crew: the workers of a cluster, if they are to do the work.
    """

    restorer: Model
    sha256: str
    crew: Crew | None = None


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
        from varfix.engine.settings.resolve import unknown_variables

        for text in unknown_variables(os.environ):
            self._warn("unknown_variable", text)

    def opened(self) -> Opened[OnnxRestorer]:
        """Load the model.

        Raises:
            ModelError: The model is missing or not one that varfix runs.
            DeviceError: A device asked for by name is not there.
        """
        name = self.settings.model.name
        with self._terminal.busy(f"Loading {name}"):
            from varfix.onnx.files.model_files import model_digest
            from varfix.onnx.inference.open_model import open_restorer

            restorer = open_restorer(name, self.settings, warn=self._warn)
            return Opened(restorer, model_digest(name))

    @contextmanager
    def hired(self, address: str, workers: int | None = None) -> Iterator[Opened[Restorer]]:
        """Load the model on the workers of a cluster, while the block runs.

        Args:
            address: of the cluster.
            workers: as many; None = as the settings say.

        Raises:
            ConfigError: Ray is not installed.
            ModelError: As `opened`.
            DeviceError: As `opened`; or there is no such cluster, or no room in it.
        """
        from msgspec.structs import replace

        from varfix.cli.cluster_option import hired

        settings = self.settings
        if workers is not None:
            settings = replace(settings, cluster=replace(settings.cluster, workers=workers))
        with hired(address, settings, self._terminal) as (crew, self.settings, model):
            yield Opened(model, crew.model.sha256, crew)

    def run(
        self, plan: Plan, opened: Opened[Restorer], options: Options, also: Observer | None = None
    ) -> int:
        """Carry out `plan` with progress and events, told to `also` too; return the exit code."""
        from varfix.engine.batch.run import run_batch

        with ExitStack() as stack:
            self._observer, shown = stack.enter_context(self._reporting(also))
            drop = plan.target.discard_unfinished
            say = self._terminal.say
            stack.enter_context(listening(self.stop, say, shown.status, drop, _unit(plan)))
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
        from varfix.cli.event_log import EventLog
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
        from varfix.cli.event_log import Sink, log_file

        sinks = []
        if self._events.as_json:
            sinks.append(Sink("stdout", sys.stdout.buffer, lambda: self.stop.ask(ExitCode.SIGPIPE)))
        if self._events.log_file is not None:
            sinks.append(stack.enter_context(log_file(self._events.log_file)))
        return sinks


def _unit(plan: Plan) -> str:
    """What a run finishes before it stops: a clip is left in its middle."""
    kinds = {item.is_clip: "frame" if item.is_clip else "image" for item in plan.items}
    return " or ".join(kinds[one] for one in sorted(kinds))
