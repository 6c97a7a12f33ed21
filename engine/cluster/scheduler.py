"""The scheduler of a cluster: it assigns items to workers, and again when a worker is lost.

Each worker has two seconds of work assigned and no more, so that nothing piles up and little is
lost with a worker. The items of a lost worker go to the others; an item that has cost two workers
is assigned to a third alone, and fails when that worker is lost as well.

Ray Data would be the ready-made scheduler, but it returns results, not events: it reports nothing
about an item between the start and the end of its block; it offers no point at which a result is
recorded in the manifest before it is published; and a stopped run cannot discard its queues. This
package uses Ray for what no program should do itself: processes on many machines, their resources,
their failures, and calls between them.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from varfix.engine.batch.context import ClusterRunPort, RunContext, failure_event
from varfix.engine.batch.item import Item
from varfix.engine.cluster.commit import CommitCoordinator
from varfix.engine.cluster.messages import (
    ResultPublished,
    ResultReady,
    WorkerFinished,
    WorkerInfo,
    WorkerMessage,
    WorkerStarted,
)
from varfix.engine.cluster.transport import TICK, Reply, Transport, WorkerGone
from varfix.engine.cluster.worker import Worker, check_worker
from varfix.engine.errors import (
    DeviceError,
    DeviceUnavailableError,
    VarfixError,
    WorkerLostError,
)
from varfix.engine.events import Event, ItemDone, ItemFail, RetryCounts, Warn
from varfix.engine.system.counts import counted

MAX_TRIES: Final = 3  # workers that an item may cost, and failed starts in a row of a worker
_AHEAD: Final = 2.0  # seconds of work assigned to a worker
_FEWEST, _MOST = 3, 64  # items assigned to a worker
_POLL: Final = 2.0  # seconds that a poll waits for messages
_POLLS: Final = 400.0  # replies per second that the run handles, of all workers together
_PATIENCE: Final = 60.0  # seconds without a worker before the warning


@dataclass
class WorkerState:
    """A worker as the run knows it.

    Attributes:
        failures: Failed starts and losses in this worker's place since the last finished item.
        info: None until the worker has loaded the model.
        assigned: Items assigned to the worker, by id.
        seconds_per_item: 0 until known.
        last_progress: Time at which the worker last finished an item.
    """

    worker: int
    failures: int = 0
    info: WorkerInfo | None = None
    state: Literal["opening", "beginning", "working", "ended"] = "opening"
    assigned: dict[int, Item] = field(default_factory=dict)
    seconds_per_item: float = 0.0
    last_progress: float = field(default_factory=time.monotonic)

    @property
    def name(self) -> str:
        """Subject of a message about the worker."""
        return f"worker {self.info.name}" if self.info else "a starting worker"

    @property
    def free_slots(self) -> int:
        """Number of items to assign to the worker now."""
        pace = self.seconds_per_item
        wanted = math.ceil(_AHEAD / pace) if pace else _FEWEST
        return max(_FEWEST, min(wanted, _MOST)) - len(self.assigned)

    def finished(self, count: int) -> None:
        """Update the pace after `count` more finished items."""
        now = time.monotonic()
        pace = (now - self.last_progress) / count
        known = self.seconds_per_item
        self.seconds_per_item = (known + pace) / 2 if known else pace
        self.last_progress, self.failures = now, 0


class Pool(Protocol):
    """The workers that a scheduler uses; `pool.WorkerPool` starts and stops them."""

    transport: Transport
    workers: dict[int, WorkerState]
    model: WorkerInfo

    def start_worker(self, failures: int = 0) -> None:
        """Start a worker."""
        ...

    def stop_worker(self, state: WorkerState) -> None:
        """Stop a worker and forget it."""
        ...


@dataclass(frozen=True)
class StartArguments:
    """Arguments of `Worker.start`."""

    context: RunContext
    probe_file: str


class Scheduler:
    """Distributes the items of one run among the workers of a pool."""

    def __init__(
        self, pool: Pool, items: Iterable[Item], start: StartArguments, port: ClusterRunPort
    ) -> None:
        self._pool, self._transport, self._port = pool, pool.transport, port
        self._waiting = deque(items)
        self._start_arguments = start
        self._tries: Counter[int] = Counter()
        self._warned: set[str] = set()
        self._fatal: Exception | None = None
        self._stopping = False
        self._idle_since = time.monotonic()  # 0 once the warning was emitted
        self._commits = CommitCoordinator(port, self._grant)

    def _grant(self, worker: int, number: int, granted: bool) -> None:
        self._transport.send(worker, Worker.grant_publish, number, granted)

    def run(self) -> None:
        """Work until all items are done, or the run is stopped or fails."""
        try:
            for state in list(self._pool.workers.values()):
                if state.info is not None:
                    self._start(state, state.info)
            while not self._is_over():
                if not self._stopping and (self._port.is_stopping() or self._commits.error):
                    self._stop()
                self._assign()
                for reply in self._transport.replies(TICK):
                    self._handle(reply)
                self._warn_if_idle()
        finally:
            self._commits.close()
        fatal = self._fatal or self._commits.error
        if fatal is not None:
            raise fatal

    def _is_over(self) -> bool:
        workers = self._pool.workers.values()
        if self._stopping:
            return not any(state.state == "working" for state in workers)
        return not self._waiting and not any(state.assigned for state in workers)

    def _stop(self) -> None:
        self._stopping = True
        self._waiting.clear()
        for state in self._pool.workers.values():
            if state.state == "working":
                self._transport.send(state.worker, Worker.stop)

    def _fail(self, error: Exception) -> None:
        self._fatal = self._fatal or error
        self._stop()

    def _assign(self) -> None:
        """Assign waiting items to workers, evenly while few are left."""
        assigned: dict[int, list[Item]] = {}
        workers = [state for state in self._pool.workers.values() if self._has_room(state)]
        while self._waiting and workers:
            workers.sort(key=lambda state: len(state.assigned))
            item, state = self._waiting[0], workers[0]
            if self._is_suspect(item) and state.assigned:
                break  # a worker will soon have nothing else
            self._waiting.popleft()
            state.assigned[item.id] = item
            assigned.setdefault(state.worker, []).append(item)
            workers = [state for state in workers if self._has_room(state)]
        for worker, items in assigned.items():
            self._transport.send(worker, Worker.assign, items)

    def _has_room(self, state: WorkerState) -> bool:
        suspect = any(map(self._is_suspect, state.assigned.values()))
        return state.state == "working" and state.free_slots > 0 and not suspect

    def _is_suspect(self, item: Item) -> bool:
        """Return whether the item must be alone on its worker."""
        return self._tries[item.id] >= MAX_TRIES - 1

    def _handle(self, reply: Reply) -> None:
        state = self._pool.workers.get(reply.worker)
        if state is None:
            return  # the worker was stopped
        match reply.value:
            case WorkerGone(reason):
                self._replace(state, reason)
            case VarfixError() as error:
                self._reject(state, error)
            case WorkerInfo() as info:
                state.info = info
                self._start(state, info)
            case WorkerStarted():
                state.state, state.last_progress = "working", time.monotonic()
                self._poll(state)
            case messages:
                self._process(state, messages)

    def _start(self, state: WorkerState, info: WorkerInfo) -> None:
        error = check_worker(info, self._pool.model)
        if error is not None:
            self._reject(state, error)
        elif not self._stopping:
            state.state = "beginning"
            start = self._start_arguments
            self._transport.call_async(state.worker, Worker.start, start.context, start.probe_file)
            for warning in info.warnings:
                if warning.text not in self._warned:  # once for all workers with this warning
                    self._warned.add(warning.text)
                    self._warn(warning.code, warning.text)

    def _poll(self, state: WorkerState) -> None:
        if self._stopping:  # the worker became ready too late
            self._transport.send(state.worker, Worker.stop)
        linger = len(self._pool.workers) / _POLLS
        self._transport.call_async(state.worker, Worker.poll, _POLL, linger)

    def _process(self, state: WorkerState, messages: list[WorkerMessage]) -> None:
        done = sum(isinstance(message, ItemDone | ItemFail) for message in messages)
        if done:
            state.finished(done)
        for message in messages:
            self._process_message(state, message)
        if state.state == "working":
            self._poll(state)

    def _process_message(self, state: WorkerState, message: WorkerMessage) -> None:
        if isinstance(message, ResultReady):
            self._commits.commit(state.worker, state.assigned[message.id], message.entry)
        elif isinstance(message, ResultPublished):
            self._commits.finish(state.worker, message.id, True)
        elif isinstance(message, WorkerFinished):
            self._finish(state, message.error)
        else:
            if isinstance(message, ItemDone | ItemFail):
                self._commits.finish(state.worker, message.id, False)
                del state.assigned[message.id]
            self._port.emit(message)

    def _finish(self, state: WorkerState, error: VarfixError | None) -> None:
        state.state = "ended"
        if error is None and self._stopping:
            return
        if error is None or isinstance(error, DeviceError):
            self._replace(state, error.message if error else "ended without a reason")
        else:
            self._fail(error)

    def _replace(self, state: WorkerState, reason: str) -> None:
        """Requeue the items of a lost worker, and start another worker in its place."""
        self._commits.abandon(state.worker)
        self._pool.stop_worker(state)
        if self._stopping:
            return
        going = counted(len(state.assigned), "item goes", "items go")
        rest = f"; {going} to other workers" if state.assigned else ""
        self._warn("worker_lost", f"{state.name} was lost ({reason}){rest}")
        for item in reversed(state.assigned.values()):
            self._requeue(item, reason)
        if state.failures + 1 < MAX_TRIES:
            self._pool.start_worker(state.failures + 1)
        else:
            text = f"giving up on {state.name} after {MAX_TRIES} failed starts"
            self._warn("worker_given_up", text)
            self._check_left(DeviceUnavailableError(f"no worker is left ({reason})"))

    def _requeue(self, item: Item, reason: str) -> None:
        self._tries[item.id] += 1
        if self._port.is_published(item):
            # The worker was lost after it had published the result, before it reported that.
            done = ItemDone(id=item.id, seconds=0.0, stage={}, bytes=0, retries=RetryCounts())
            self._port.emit(done)
        elif self._tries[item.id] < MAX_TRIES:
            self._waiting.appendleft(item)
        else:
            text = f"{MAX_TRIES} workers were lost while they restored it (the last: {reason})"
            error = WorkerLostError(text, hint="give each worker more memory, see cluster.cpus")
            label = self._start_arguments.context.label(item)
            self._port.emit(failure_event(label, item, error))

    def _reject(self, state: WorkerState, error: VarfixError) -> None:
        self._pool.stop_worker(state)
        self._warn("worker_refused", f"{state.name} was rejected: {error.message}")
        self._check_left(error)

    def _check_left(self, error: VarfixError) -> None:
        if not self._pool.workers:
            self._fail(error)

    def _warn_if_idle(self) -> None:
        """Warn when no worker has worked for long: the cluster may never have room."""
        if self._stopping or any(s.state == "working" for s in self._pool.workers.values()):
            self._idle_since = time.monotonic()
        elif self._idle_since and time.monotonic() - self._idle_since > _PATIENCE:
            self._idle_since = 0.0
            self._warn("worker_awaited", "no worker is ready; waiting for the cluster to start one")

    def _warn(self, code: str, text: str) -> None:
        event: Event = Warn(code=code, message=text)
        self._port.emit(event)
