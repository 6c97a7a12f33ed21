"""Runs a plan: announces it, keeps count and manifest, and says how it ended.

What happens is told to an observer. One image's failure never ends the run; a full disk or a lost
device does, with everything finished kept (cli/README.md). The images
themselves are made by `maker.Maker`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version

from varfix.engine.batch.context import Options, Summary
from varfix.engine.batch.plan import Item, Plan, plan_warnings, state_of
from varfix.engine.batch.processor import Maker, Terms, failure, jobs_of
from varfix.engine.errors import DiskFullError, ExitCode, HostMemoryError, VarfixError
from varfix.engine.events import (
    DeviceFacts,
    Event,
    ItemDone,
    ItemFail,
    ItemSkip,
    ModelFacts,
    Observer,
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
        observer: Observer,
        options: Options,
    ) -> None:
        self.plan, self.restorer, self.settings = plan, restorer, settings
        self.options = options
        self.failures: list[ItemFail] = []
        self.worst = ExitCode.OK
        self.ok = 0
        self.busy: Counter[str] = Counter()
        self._observer = observer
        self._lock = threading.RLock()
        self._start = time.monotonic()
        self._halt = threading.Event()  # set by --fail-fast

    def tell(self, event: Event) -> None:
        """Count what an event says, and pass it on; one at a time."""
        with self._lock:
            self._count(event)
            self._observer(event)

    def go(self) -> Summary:
        """Run.

        Raises:
            OutputLockedError: Another run writes to the destination.
            OutputError: The disk is full or may not be written.
            DeviceError: The device failed for good.
        """
        with self.plan.held():
            self._announce()
            try:
                self._work()
            except VarfixError as fatal:
                if isinstance(fatal, DiskFullError):
                    fatal.hint = f"{self.ok} of {len(self.plan.items)} done; {fatal.hint}"
                self._end("failed", fatal.exit_code)
                raise
            finally:
                if self.plan.manifest is not None:
                    self.plan.manifest.close()
            return self._end(*self._outcome())

    def _work(self) -> None:
        plan, options = self.plan, self.options
        alone = plan.manifest is None
        terms = Terms(self.settings, plan.recipe, plan.source, plan.target, alone)
        for item, error in plan.refused:
            self.tell(failure(terms.label(item), item, error))
        if options.crew is not None:
            options.crew.run(plan.items, terms, self)
        else:
            Maker(terms, self.restorer, self, options.watch).run(plan.items)

    def _announce(self) -> None:
        restorer, plan = self.restorer, self.plan
        used = restorer.used
        self.tell(
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
        self.tell(
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
            self.tell(ItemSkip(id=skip.id, src=printable(skip.src), reason=skip.reason))
        for warning in plan_warnings(plan):
            self.tell(warning)

    def stopped(self) -> bool:
        """Whether nothing new is to be started."""
        return self._halt.is_set() or self.options.stop.is_set()

    def put(self, item: Item, entry: Callable[[], Entry], write: Callable[[], None]) -> None:
        """Write a result and enter it in the manifest, in the order that a kill leaves right."""
        manifest = self.plan.manifest
        if manifest is None:
            write()
            return
        with manifest.recording(entry(), self.plan.target.replaces(item.dst, item.source)):
            write()

    def made(self, item: Item) -> bool:
        """Whether the result of an item is in its place and entered."""
        manifest = self.plan.manifest
        if manifest is None or state_of(self.plan, item, self.settings) != "done":
            return False
        return manifest.is_intact(item.dst)

    def _count(self, event: Event) -> None:
        if isinstance(event, ItemDone):
            self.ok += 1
            self.busy.update(event.stage)
        elif isinstance(event, ItemFail):
            self.failures.append(event)
            lacked = event.code == HostMemoryError.code
            self.worst = max(self.worst, ExitCode.DEVICE if lacked else ExitCode.PARTIAL)
            if self.options.fail_fast:
                self._halt.set()

    def _outcome(self) -> tuple[Status, ExitCode]:
        """How a run ends that nothing broke off; a signal that came too late changes nothing."""
        left = len(self.plan.items) - self.ok - len(self.failures)
        asked = self.options.stop.code
        if asked is not None and (left > 0 or asked is ExitCode.SIGPIPE):
            return "stopped", asked
        if not self.failures:
            unread = bool(self.plan.found.denied)
            return ("partial", ExitCode.PARTIAL) if unread else ("ok", ExitCode.OK)
        return ("partial" if self.worst is ExitCode.PARTIAL else "failed"), self.worst

    def _end(self, status: Status, code: ExitCode) -> Summary:
        seconds = time.monotonic() - self._start
        # A clip's frames come one after the other: one thread for each of its stages.
        jobs = 1 if all(item.is_clip for item in self.plan.items) else jobs_of(self.settings)
        crew = self.options.crew.size if self.options.crew else 1
        threads = {"infer": 1}
        share = {
            name: round(spent / max(seconds, 1e-9) / threads.get(name, jobs) / crew, 3)
            for name, spent in self.busy.items()
        }
        skipped = len(self.plan.skips)
        self.tell(
            RunEnd(
                status=status,
                exit=int(code),
                ok=self.ok,
                skipped=skipped,
                failed=len(self.failures),
                seconds=round(seconds, 3),
                per_second=round(self.ok / max(seconds, 1e-9), 4),
                busy=share,
            )
        )
        return Summary(self.ok, skipped, len(self.failures), seconds, tuple(self.failures), code)


def run_batch(
    plan: Plan, restorer: Restorer, settings: Settings, observer: Observer, options: Options
) -> Summary:
    """Run a plan; see `Run.go` for what it raises."""
    return Run(plan, restorer, settings, observer, options).go()
