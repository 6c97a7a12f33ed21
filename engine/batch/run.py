"""A run of a plan: it emits the events, keeps the manifest, and counts.

The failure of one item never ends the run; a full disk or a lost device does, and all finished
results stay (cli/README.md). An executor restores the items.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version

from msgspec import UNSET

from varfix.engine.batch.context import RunContext, RunOptions, RunSummary, failure_event
from varfix.engine.batch.item import Item
from varfix.engine.batch.output_state import output_state
from varfix.engine.batch.plan import Plan, plan_warnings
from varfix.engine.batch.processor import LocalExecutor, jobs_of
from varfix.engine.errors import DiskFullError, ExitCode, HostMemoryError, VarfixError
from varfix.engine.events import (
    DeviceFacts,
    Event,
    EventHandler,
    ItemDone,
    ItemFail,
    ItemJudged,
    ItemSkip,
    ModelFacts,
    PlanDone,
    RunEnd,
    RunStart,
    Status,
)
from varfix.engine.restoration.restorer import Restorer
from varfix.engine.settings.types import Settings
from varfix.engine.storage.manifest import Entry
from varfix.engine.system.display_names import printable


class Run:
    """One run of a plan."""

    def __init__(
        self,
        plan: Plan,
        restorer: Restorer,
        settings: Settings,
        handler: EventHandler,
        options: RunOptions,
    ) -> None:
        self.plan, self.restorer, self.settings = plan, restorer, settings
        self.options = options
        self.failures: list[ItemFail] = []
        self.worst = ExitCode.OK
        self.ok = 0
        self.busy: Counter[str] = Counter()
        self._applied: Counter[str] | None = None  # None until the model has judged an item
        self._handler = handler
        self._lock = threading.RLock()
        self._start = time.monotonic()
        self._halt = threading.Event()  # set by --fail-fast

    def emit(self, event: Event) -> None:
        """Count an event and pass it to the handler; one at a time."""
        with self._lock:
            self._count(event)
            self._handler(event)

    def execute(self) -> RunSummary:
        """Execute the plan.

        Raises:
            OutputLockedError: Another run writes to the destination.
            OutputError: The disk is full or cannot be written.
            DeviceError: The device failed permanently.
        """
        with self.plan.lock():
            self._announce()
            try:
                self._work()
            except DiskFullError as full:
                self._end("failed", full.exit_code)
                done = f"{self.ok} of {len(self.plan.items)} done"
                raise full.reworded(hint=f"{done}; {full.hint}") from full
            except VarfixError as fatal:
                self._end("failed", fatal.exit_code)
                raise
            finally:
                if self.plan.manifest is not None:
                    self.plan.manifest.close()
            return self._end(*self._outcome())

    def _work(self) -> None:
        plan, options = self.plan, self.options
        context = RunContext(self.settings, plan.fingerprint, plan.source, plan.target)
        for refusal in plan.refusals:
            label = context.label(refusal.item)
            self.emit(failure_event(label, refusal.item, refusal.error))
        executor = options.executor or LocalExecutor(self.restorer, options.observe)
        executor.run(plan.items, context, self)

    def _announce(self) -> None:
        restorer, plan = self.restorer, self.plan
        used = restorer.used
        self.emit(
            RunStart(
                version=version("varfix"),
                command=self.options.command,
                model=ModelFacts(name=restorer.card.name, sha256=self.options.model_sha256),
                device=DeviceFacts(
                    requested=used.requested,
                    used=used.device,
                    provider=used.provider,
                    precision=used.precision,
                ),
                tile=restorer.tile,
                batch=restorer.batch,
            )
        )
        self.emit(
            PlanDone(
                items=len(plan.items),
                skip_done=plan.skipped("done"),
                skip_stale=plan.skipped("stale"),
                skip_foreign=plan.skipped("foreign"),
                pixels=plan.pixels,
                ignored=len(plan.found.ignored),
            )
        )
        for skip in plan.skips:
            self.emit(ItemSkip(id=skip.id, src=printable(skip.src), reason=skip.reason))
        for warning in plan_warnings(plan):
            self.emit(warning)

    def is_stopping(self) -> bool:
        """Return whether nothing new may be started."""
        return self._halt.is_set() or self.options.stop.is_set()

    def publish(self, item: Item, entry: Callable[[], Entry], write: Callable[[], None]) -> None:
        """Record a result in the manifest and write it, in the order that survives SIGKILL."""
        manifest, history = self.plan.manifest, self.options.history
        path = item.target.path
        if manifest is None and history is not None and path and item.source.path:
            with history.recording(entry(), path, path.exists()):
                write()
            return
        if manifest is None:
            write()
            return
        replaces = self.plan.target.replaces(item.target.name, item.source.path)
        with manifest.recording(entry(), replaces):
            write()

    def is_published(self, item: Item) -> bool:
        """Return whether the result of an item is in its place and in the manifest."""
        manifest = self.plan.manifest
        if manifest is None:
            return False
        state = output_state(item, manifest, self.plan.fingerprint, self.settings)
        return state == "done" and manifest.is_intact(item.target.name)

    def _count(self, event: Event) -> None:
        if isinstance(event, ItemDone | ItemJudged):
            self.ok += 1
            self.busy.update(event.stage)
            if event.applied is not UNSET:
                self._applied = (self._applied or Counter()) + Counter(event.applied)
        elif isinstance(event, ItemFail):
            self.failures.append(event)
            is_memory = event.code == HostMemoryError.code
            self.worst = max(self.worst, ExitCode.DEVICE if is_memory else ExitCode.PARTIAL)
            if self.options.fail_fast:
                self._halt.set()

    def _outcome(self) -> tuple[Status, ExitCode]:
        """Return how a run without a fatal error ends; a late signal changes nothing."""
        left = len(self.plan.items) - self.ok - len(self.failures)
        code = self.options.stop.code
        if code is not None and (left > 0 or code is ExitCode.SIGPIPE):
            return "stopped", code
        if not self.failures:
            unread = bool(self.plan.found.denied)
            return ("partial", ExitCode.PARTIAL) if unread else ("ok", ExitCode.OK)
        return ("partial" if self.worst is ExitCode.PARTIAL else "failed"), self.worst

    def _end(self, status: Status, code: ExitCode) -> RunSummary:
        seconds = time.monotonic() - self._start
        # The frames of a video follow one another: one thread for each of its stages.
        jobs = 1 if all(item.is_video for item in self.plan.items) else jobs_of(self.settings)
        workers = self.options.executor.size if self.options.executor else 1
        threads = {"infer": 1}
        share = {
            name: round(spent / max(seconds, 1e-9) / threads.get(name, jobs) / workers, 3)
            for name, spent in self.busy.items()
        }
        skipped = len(self.plan.skips)
        self.emit(
            RunEnd(
                status=status,
                exit=int(code),
                ok=self.ok,
                skipped=skipped,
                failed=len(self.failures),
                seconds=round(seconds, 3),
                per_second=round(self.ok / max(seconds, 1e-9), 4),
                busy=share,
                applied=UNSET if self._applied is None else dict(self._applied.most_common()),
            )
        )
        return RunSummary(self.ok, skipped, len(self.failures), seconds, tuple(self.failures), code)


def run_batch(
    plan: Plan, restorer: Restorer, settings: Settings, handler: EventHandler, options: RunOptions
) -> RunSummary:
    """Execute a plan; see `Run.execute` for what it raises."""
    return Run(plan, restorer, settings, handler, options).execute()
