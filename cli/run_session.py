"""A run of `dir`, `image` or `video`: load the model, run the plan, report events."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from varfix.cli.options import EventOptions
from varfix.cli.signals import handle_signals
from varfix.cli.terminal import Terminal
from varfix.engine.batch.stop import StopRequest
from varfix.engine.errors import ExitCode
from varfix.engine.settings.resolve import unknown_variables

if TYPE_CHECKING:
    from varfix.cli.event_log import Sink
    from varfix.cli.progress import LiveProgress, PlainProgress
    from varfix.engine.batch.context import RunOptions
    from varfix.engine.batch.plan import Plan
    from varfix.engine.cluster.pool import WorkerPool
    from varfix.engine.events import Event, EventHandler, Warn
    from varfix.engine.restoration.restorer import Restorer
    from varfix.engine.settings.types import Settings
    from varfix.onnx.inference.restorer import ModelRestorer


Model = TypeVar("Model", bound="Restorer", covariant=True)


@dataclass(frozen=True)
class LoadedModel(Generic[Model]):
    """A model that is ready to run.

    Attributes:
        restorer: The model; on a cluster, the model of one of the workers.
        sha256: Digest of all graphs of the model.
        settings: The settings that the model was loaded with.
        pool: The workers of a cluster, or None.
    """

    restorer: Model
    sha256: str
    settings: Settings
    pool: WorkerPool | None = None


class RunSession:
    """A run of the command line.

    Attributes:
        settings: The resolved settings.
        stop: Set by signals, and when the reader of stdout closes it.
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
        self._observer: EventHandler | None = None
        for text in unknown_variables(os.environ):
            self._warn("unknown_variable", text)

    def load_model(self) -> LoadedModel[ModelRestorer]:
        """Load the model.

        Raises:
            ModelError: The model is missing or not supported.
            DeviceError: The requested device is not available.
        """
        name = self.settings.model.name
        with self._terminal.busy(f"Loading {name}"):
            from varfix.onnx.files.model_files import model_digest
            from varfix.onnx.inference.open_model import open_restorer

            restorer = open_restorer(name, self.settings, warn=self._warn)
            return LoadedModel(restorer, model_digest(name), self.settings)

    @contextmanager
    def on_cluster(
        self, address: str, workers: int | None = None
    ) -> Iterator[LoadedModel[Restorer]]:
        """Load the model on the workers of a cluster; they are stopped after the block.

        Args:
            address: Address of the cluster.
            workers: Number of workers; None = from the settings.

        Raises:
            ConfigError: Ray is not installed.
            ModelError: As `load_model`.
            DeviceError: As `load_model`; or the cluster is not reachable or full.
        """
        from msgspec.structs import replace

        from varfix.cli.cluster_option import start_pool

        settings = self.settings
        if workers is not None:
            settings = replace(settings, cluster=replace(settings.cluster, workers=workers))
        with start_pool(address, settings, self._terminal) as started:
            sha256 = started.pool.model.sha256
            yield LoadedModel(started.model, sha256, started.settings, started.pool)

    def run(
        self,
        plan: Plan,
        loaded: LoadedModel[Restorer],
        options: RunOptions,
        also: EventHandler | None = None,
        still: bool = False,
    ) -> int:
        """Run `plan` with progress and events, and return the exit code.

        Args:
            plan: What to do.
            loaded: The model.
            options: How to execute the plan.
            also: Receives every event as well.
            still: Show no moving lines: `also` writes to the same terminal.
        """
        from varfix.engine.batch.run import run_batch

        with ExitStack() as stack:
            self._observer, shown = stack.enter_context(self._reporting(also, still))
            drop = plan.target.discard_unfinished
            say = self._terminal.say
            stack.enter_context(handle_signals(self.stop, say, shown.status, drop, _unit(plan)))
            summary = run_batch(plan, loaded.restorer, loaded.settings, self._observer, options)
        return summary.exit_code

    def _warn(self, code: str, message: str) -> None:
        """Report a warning of the model; before the run starts, only on stderr."""
        from varfix.engine.events import Warn

        event = Warn(code=code, message=message)
        if self._observer is not None:
            self._observer(event)
            return
        self._terminal.warn(message)
        self._early.append(event)

    @contextmanager
    def _reporting(
        self, also: EventHandler | None, still: bool
    ) -> Iterator[tuple[EventHandler, PlainProgress | LiveProgress]]:
        """Open every destination of events, and return a handler that writes to all."""
        from varfix.cli.event_log import EventLog
        from varfix.cli.progress import progress
        from varfix.engine.events import RunStart

        with ExitStack() as stack:
            log = EventLog(self._sinks(stack))
            others: list[EventHandler] = [log] if also is None else [log, also]
            shown = stack.enter_context(progress(self._terminal, self._preset, still))

            def observer(event: Event) -> None:
                shown(event)
                # `run.start` must be the first event, so earlier warnings follow it.
                early = self._early if isinstance(event, RunStart) else []
                for sent in (event, *early):
                    for other in others:
                        other(sent)

            yield observer, shown

    def _sinks(self, stack: ExitStack) -> list[Sink]:
        from varfix.cli.event_log import Sink, log_file

        sinks = []
        if self._events.as_json:
            stop = partial(self.stop.request, ExitCode.SIGPIPE)
            sinks.append(Sink("stdout", sys.stdout.buffer, stop))
        if self._events.log_file is not None:
            sinks.append(stack.enter_context(log_file(self._events.log_file)))
        return sinks


def _unit(plan: Plan) -> str:
    """Return the unit that a run finishes before it stops: an image, or a frame of a video."""
    units = {"frame" if item.is_video else "image" for item in plan.items}
    return " or ".join(sorted(units, reverse=True))
