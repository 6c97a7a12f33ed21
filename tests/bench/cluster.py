"""What one driver can drive: a run with workers that only sleep, as many as are asked for.

    PYTHONPATH=tests python tests/bench/cluster.py --workers 1 10 50 100 200 --seconds 1.0

The driver is the real one: `batch.Run`, crew, handover, manifest and event log. Of the workers only
the calls are real: each sleeps where another restores, tells what another tells, and waits for
leave to publish; fifty share a process, or the machine would measure itself. JSON lines go to
stdout: the images a second that so many workers could make, and those that were made; the
driver's milliseconds of CPU for an image, its share of one core, and its events a second.
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
)
from varfix.engine.cluster.pool import WorkerPool
from varfix.engine.cluster.transport import Reply
from varfix.engine.events import Event, ItemDone, ItemStart, RetryCounts
from varfix.engine.restoration.restorer import DeviceUsed
from varfix.engine.settings.types import Settings
from varfix.engine.storage.manifest import Entry
from varfix.engine.storage.open import store_of

TOGETHER = 50
CARD = IDENTITY_CARD
USED = DeviceUsed("cpu", "cpu", "none", "fp32")


class Sleeper:
    """See `worker.Worker`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._items: asyncio.Queue[Item | None] = asyncio.Queue()
        self._news: asyncio.Queue[Any] = asyncio.Queue()
        self._leaves: dict[int, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def load_model(self) -> WorkerInfo:
        return WorkerInfo(version("varfix"), "here", os.getpid(), CARD, USED, 64, 64, 1, "sha")

    async def start(self, context: Any, probe_file: str) -> None:
        self._start(self._work())

    async def assign(self, items: list[Item]) -> None:
        for item in items:
            await self._items.put(item)

    async def grant_publish(self, number: int, granted: bool) -> None:
        self._leaves[number].set()

    async def stop(self) -> None:
        await self._items.put(None)

    async def poll(self, wait: float, linger: float) -> list[Any]:
        try:
            found = [await asyncio.wait_for(self._news.get(), wait)]
        except TimeoutError:
            return []
        await asyncio.sleep(linger)
        while not self._news.empty():
            found.append(self._news.get_nowait())
        return found

    def _start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self) -> None:
        while (item := await self._items.get()) is not None:
            start = ItemStart(
                id=item.id, src=item.source.name, dst=item.target.name, width=None, height=None
            )
            await self._news.put(start)
            await asyncio.sleep(self._seconds)
            self._start(self._publish(item))
        await self._news.put(WorkerFinished(None))

    async def _publish(self, item: Item) -> None:
        leave = self._leaves[item.id] = asyncio.Event()
        entry = Entry(
            item.target.name, item.source.name, 1, 1, "recipe", 1, "0" * 64, self._seconds
        )
        await self._news.put(ResultReady(item.id, entry))
        await leave.wait()
        await self._news.put(ResultPublished(item.id))
        stage = {"decode": 0.01, "infer": self._seconds, "encode": 0.02}
        again = RetryCounts()
        done = ItemDone(id=item.id, seconds=self._seconds, stage=stage, bytes=1, retries=again)
        await self._news.put(done)
        del self._leaves[item.id]


class Dormitory:
    """Sleepers that share a process."""

    def __init__(self, count: int, seconds: float) -> None:
        self._sleepers = [Sleeper(seconds) for _ in range(count)]

    async def call(self, place: int, method: str, *facts: Any) -> Any:
        return await getattr(self._sleepers[place], method)(*facts)


class Dormitories:
    """See `link.Transport`."""

    def __init__(self, ray: Any, workers: int, seconds: float) -> None:
        self._ray, self.wanted = ray, workers
        kind = ray.remote(Dormitory).options(num_cpus=0, max_concurrency=20 * TOGETHER)
        houses = -(-workers // TOGETHER)
        self._houses = [kind.remote(min(TOGETHER, workers), seconds) for _ in range(houses)]
        self._asked: dict[Any, tuple[int, str]] = {}
        self._hired = 0

    def _call(self, worker: int, method: str, *facts: Any) -> Any:
        house, place = divmod(worker - 1, TOGETHER)
        return self._houses[house].call.remote(place, method, *facts)

    def start_worker(self) -> int:
        self._hired += 1
        return self._hired

    def stop_worker(self, worker: int) -> None:
        raise AssertionError("a sleeper was lost")

    def send(self, worker: int, method: str, *facts: Any) -> None:
        self._call(worker, method, *facts)

    def call_async(self, worker: int, method: str, *facts: Any) -> None:
        self._asked[self._call(worker, method, *facts)] = worker, method

    def replies(self, seconds: float) -> list[Reply]:
        refs = list(self._asked)
        first, _ = self._ray.wait(refs, num_returns=1, timeout=seconds)
        done = first and self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]
        return [Reply(*self._asked.pop(ref), self._ray.get(ref)) for ref in done]

    def call(self, worker: int, method: str, *facts: Any) -> Any:
        return self._ray.get(self._call(worker, method, *facts))

    def close(self) -> None:
        for house in self._houses:
            self._ray.kill(house)


def measured(ray: Any, workers: int, seconds: float, lasting: float) -> dict[str, float]:
    """Drive so many sleepers for about `lasting` seconds."""
    count = max(20, round(workers / seconds * lasting))
    link = Dormitories(ray, workers, seconds)
    crew = WorkerPool(link)
    crew.open(60)
    told = 0
    with tempfile.TemporaryDirectory() as name, Path(os.devnull).open("wb") as nowhere:
        folder = store_of(Path(name))
        places = [(f"{n % 99}/{n}.png", Path(name, f"{n}.png")) for n in range(count)]
        items = tuple(
            Item(n, ItemSource(src, path), ItemTarget(src, path))
            for n, (src, path) in enumerate(places)
        )
        plan = Plan(folder, folder, "fingerprint", items, manifest=folder.manifest())
        log = EventLog([Sink("log", nowhere, lambda: None)])

        def observer(event: Event) -> None:
            nonlocal told
            told += 1
            log(event)

        run = Run(
            plan, IdentityRestorer(), Settings(), observer, RunOptions("dir", "sha", executor=crew)
        )
        wall, cpu = time.perf_counter(), time.process_time()
        run.execute()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    link.close()
    return {
        "workers": workers,
        "seconds_each": seconds,
        "pictures": count,
        "possible_per_second": round(workers / seconds, 1),
        "made_per_second": round(count / wall, 1),
        "cpu_ms_per_picture": round(1000 * cpu / count, 2),
        "driver_cores": round(cpu / wall, 3),
        "events_per_second": round(told / wall, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Measure each number of workers in turn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 50, 100, 200])
    parser.add_argument("--seconds", type=float, nargs="+", default=[1.0])
    parser.add_argument("--lasting", type=float, default=10.0)
    wanted = parser.parse_args()
    import ray

    ray.init(num_cpus=1, logging_level=logging.CRITICAL, log_to_driver=False)
    machine = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    click.echo(json.dumps(machine | {"ray": ray.__version__, "python": platform.python_version()}))
    for seconds in wanted.seconds:
        for workers in wanted.workers:
            click.echo(json.dumps(measured(ray, workers, seconds, wanted.lasting)))


if __name__ == "__main__":
    main()
