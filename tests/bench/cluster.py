"""Throughput of a run on a cluster: how many workers one run can keep busy.

    PYTHONPATH=tests python tests/bench/cluster.py --workers 1 10 50 100 200 --seconds 1.0

The run is the real one: `batch.run.Run`, scheduler, commits, manifest and event log. The workers
answer real calls, but sleep instead of restoring; fifty of them share a process, so that they do
not load the machine. JSON lines go to stdout: the images per second that the workers could restore,
and those that were restored; the CPU time of the run per image, its share of one core, and its
events per second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from support.identity import IDENTITY_CARD, IdentityRestorer

from varfix.cli.event_log import EventLog, Sink
from varfix.engine.batch.context import RunOptions
from varfix.engine.batch.item import Item, ItemSource, ItemTarget
from varfix.engine.batch.plan import Plan
from varfix.engine.batch.run import Run
from varfix.engine.cluster.messages import (
    ResultPublished,
    ResultReady,
    WorkerFinished,
    WorkerInfo,
    WorkerStarted,
)
from varfix.engine.cluster.pool import WorkerPool
from varfix.engine.cluster.transport import Reply
from varfix.engine.events import Event, ItemDone, ItemStart, RetryCounts
from varfix.engine.restoration.restorer import DeviceUsed
from varfix.engine.settings.types import Settings
from varfix.engine.storage.manifest import Entry
from varfix.engine.storage.open import store_of

PER_PROCESS = 50
CARD = IDENTITY_CARD
USED = DeviceUsed("cpu", "cpu", "none", "fp32")


class SleepingWorker:
    """A `worker.Worker` that sleeps instead of restoring."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._items: asyncio.Queue[Item | None] = asyncio.Queue()
        self._messages: asyncio.Queue[Any] = asyncio.Queue()
        self._permissions: dict[int, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def load_model(self) -> WorkerInfo:
        return WorkerInfo(version("varfix"), "here", os.getpid(), CARD, USED, 64, 64, 1, "sha")

    async def start(self, context: Any, probe_file: str) -> WorkerStarted:
        self._start(self._work())
        return WorkerStarted()

    async def assign(self, items: list[Item]) -> None:
        for item in items:
            await self._items.put(item)

    async def grant_publish(self, number: int, granted: bool) -> None:
        self._permissions[number].set()

    async def stop(self) -> None:
        await self._items.put(None)

    async def poll(self, wait: float, linger: float) -> list[Any]:
        try:
            found = [await asyncio.wait_for(self._messages.get(), wait)]
        except TimeoutError:
            return []
        await asyncio.sleep(linger)
        while not self._messages.empty():
            found.append(self._messages.get_nowait())
        return found

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        while (item := await self._items.get()) is not None:
            src, dst = item.source.name, item.target.name
            await self._messages.put(
                ItemStart(id=item.id, src=src, dst=dst, width=None, height=None)
            )
            await asyncio.sleep(self._seconds)
            self._start(self._publish(item))
        await self._messages.put(WorkerFinished(None))

    async def _publish(self, item: Item) -> None:
        permission = self._permissions[item.id] = asyncio.Event()
        src, dst = item.source.name, item.target.name
        entry = Entry(dst, src, 1, 1, "recipe", 1, "0" * 64, self._seconds)
        await self._messages.put(ResultReady(item.id, entry))
        await permission.wait()
        await self._messages.put(ResultPublished(item.id))
        stage = {"decode": 0.01, "infer": self._seconds, "encode": 0.02}
        retries = RetryCounts()
        done = ItemDone(id=item.id, seconds=self._seconds, stage=stage, bytes=1, retries=retries)
        await self._messages.put(done)
        del self._permissions[item.id]


class WorkerProcess:
    """Workers that share a process."""

    def __init__(self, count: int, seconds: float) -> None:
        self._workers = [SleepingWorker(seconds) for _ in range(count)]

    async def call(self, place: int, method: str, *arguments: Any) -> Any:
        return await getattr(self._workers[place], method)(*arguments)


class SharedTransport:
    """A `transport.Transport` to workers that share processes."""

    def __init__(self, ray: Any, workers: int, seconds: float) -> None:
        self._ray, self.wanted = ray, workers
        kind = ray.remote(WorkerProcess).options(num_cpus=0, max_concurrency=20 * PER_PROCESS)
        count = -(-workers // PER_PROCESS)
        self._processes = [kind.remote(min(PER_PROCESS, workers), seconds) for _ in range(count)]
        self._pending: dict[Any, int] = {}
        self._started = 0

    def _call(self, worker: int, method: Callable[..., Any], *arguments: Any) -> Any:
        process, place = divmod(worker - 1, PER_PROCESS)
        return self._processes[process].call.remote(place, method.__name__, *arguments)

    def start_worker(self) -> int:
        self._started += 1
        return self._started

    def stop_worker(self, worker: int) -> None:
        raise AssertionError("a worker was lost")

    def send(self, worker: int, method: Callable[..., Any], *arguments: Any) -> None:
        self._call(worker, method, *arguments)

    def call_async(self, worker: int, method: Callable[..., Any], *arguments: Any) -> None:
        self._pending[self._call(worker, method, *arguments)] = worker

    def replies(self, seconds: float) -> list[Reply]:
        refs = list(self._pending)
        first, _ = self._ray.wait(refs, num_returns=1, timeout=seconds)
        done = first and self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]
        return [Reply(self._pending.pop(ref), self._ray.get(ref)) for ref in done]

    def call(self, worker: int, method: Callable[..., Any], *arguments: Any) -> Any:
        return self._ray.get(self._call(worker, method, *arguments))

    def close(self) -> None:
        for process in self._processes:
            self._ray.kill(process)


def measure(ray: Any, workers: int, seconds: float, duration: float) -> dict[str, float]:
    """Run with so many workers for about `duration` seconds."""
    count = max(20, round(workers / seconds * duration))
    transport = SharedTransport(ray, workers, seconds)
    pool = WorkerPool(transport)
    pool.open(60)
    emitted = 0
    with tempfile.TemporaryDirectory() as name, Path(os.devnull).open("wb") as null:
        folder = store_of(Path(name))
        names = [(f"{n % 99}/{n}.png", Path(name, f"{n}.png")) for n in range(count)]
        items = tuple(
            Item(n, ItemSource(src, path), ItemTarget(src, path))
            for n, (src, path) in enumerate(names)
        )
        plan = Plan(folder, folder, "fingerprint", items, manifest=folder.manifest())
        log = EventLog([Sink("log", null, lambda: None)])

        def observer(event: Event) -> None:
            nonlocal emitted
            emitted += 1
            log(event)

        options = RunOptions("dir", "sha", executor=pool)
        run = Run(plan, IdentityRestorer(), Settings(), observer, options)
        wall, cpu = time.perf_counter(), time.process_time()
        run.execute()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    transport.close()
    return {
        "workers": workers,
        "seconds_each": seconds,
        "images": count,
        "possible_per_second": round(workers / seconds, 1),
        "restored_per_second": round(count / wall, 1),
        "cpu_ms_per_image": round(1000 * cpu / count, 2),
        "run_cores": round(cpu / wall, 3),
        "events_per_second": round(emitted / wall, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Measure each number of workers in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 50, 100, 200])
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0])
    parser.add_argument("--duration", type=float, default=10.0)
    wanted = parser.parse_args()
    import ray

    ray.init(num_cpus=1, logging_level=logging.CRITICAL, log_to_driver=False)
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    click.echo(json.dumps(machine | {"ray": ray.__version__, "python": platform.python_version()}))
    for seconds in wanted.seconds:
        for workers in wanted.workers:
            click.echo(json.dumps(measure(ray, workers, seconds, wanted.duration)))


if __name__ == "__main__":
    main()
