"""The workers of a cluster: started before a run is planned, stopped after it has ended."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from varfix.engine.batch.context import ClusterRunPort, RunContext
from varfix.engine.batch.item import Item
from varfix.engine.cluster.messages import WorkerInfo
from varfix.engine.cluster.scheduler import MAX_TRIES, Scheduler, StartArguments, WorkerState
from varfix.engine.cluster.transport import TICK, ReplyValue, Transport, WorkerGone
from varfix.engine.cluster.worker import Worker
from varfix.engine.errors import DeviceUnavailableError, VarfixError
from varfix.engine.storage.store import Store
from varfix.engine.system.atomic import translate_os_errors
from varfix.engine.system.state_folder import STATE_FOLDER


class WorkerPool:
    """All workers; executes the items of a run (see `Executor`).

    Attributes:
        transport: Calls the workers.
        workers: State of each worker by its number.
        model: Info of the first worker that was ready; the others must have the same model.
    """

    model: WorkerInfo

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.workers: dict[int, WorkerState] = {}

    @property
    def size(self) -> int:
        """Number of workers, including those that are being started; at least 1."""
        return max(1, len(self.workers))

    def start_worker(self, failures: int = 0) -> None:
        """Start a worker."""
        worker = self.transport.start_worker()
        self.workers[worker] = WorkerState(worker, failures)
        self.transport.call_async(worker, Worker.load_model)

    def stop_worker(self, state: WorkerState) -> None:
        """Stop a worker and forget it."""
        del self.workers[state.worker]
        self.transport.stop_worker(state.worker)

    def open(self, seconds: float) -> WorkerInfo:
        """Start all workers and return the info of the first that is ready.

        Raises:
            DeviceUnavailableError: No worker is ready in time.
            VarfixError: All workers failed; the error of the last one.
        """
        for _ in range(self.transport.wanted):
            self.start_worker()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for reply in self.transport.replies(TICK):
                error = self._loaded(self.workers[reply.worker], reply.value)
                if error is not None and not self.workers:
                    raise error
            for state in self.workers.values():
                if state.info is not None:
                    self.model = state.info
                    return state.info
        raise DeviceUnavailableError(
            f"no worker was ready within {seconds:.0f} s",
            hint="check the free resources with 'ray status'; see cluster.cpus and cluster.gpus",
        )

    def _loaded(self, state: WorkerState, value: ReplyValue) -> VarfixError | None:
        if isinstance(value, WorkerInfo):
            state.info = value
            return None
        self.stop_worker(state)
        if isinstance(value, WorkerGone):
            if state.failures + 1 < MAX_TRIES:
                self.start_worker(state.failures + 1)
            return DeviceUnavailableError(f"could not start a worker ({value.reason})")
        assert isinstance(value, VarfixError)
        return value

    def run(self, items: Sequence[Item], context: RunContext, port: ClusterRunPort) -> None:
        """Restore and publish all items; see `ItemProcessor.run` for what it raises."""
        with _probe_file(context.target) as path:
            Scheduler(self, items, StartArguments(context, path), port).run()


@contextmanager
def _probe_file(target: Store) -> Iterator[str]:
    """Create a file by which workers recognize the folder; yield its path, or "" for a store."""
    if target.folder is None:
        yield ""
        return
    inner = target.folder / STATE_FOLDER
    path = (inner if inner.is_dir() else target.folder) / f".varfix-mark-{os.urandom(8).hex()}"
    with translate_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    try:
        yield os.fspath(path)
    finally:
        path.unlink(missing_ok=True)
