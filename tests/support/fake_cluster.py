"""A cluster without machines: workers in threads of this process, which can be lost at any time."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from support.runs import SETTINGS, Inverter, Setup

from varfix.engine.batch.context import RunOptions
from varfix.engine.cluster.pool import WorkerPool
from varfix.engine.cluster.transport import Reply, WorkerGone
from varfix.engine.cluster.worker import Worker
from varfix.engine.errors import ExitCode


@dataclass
class Opened:
    """Opens a model by a function of nothing, under a digest."""

    model: object = Inverter
    sha256: str = "sha"

    def __call__(self, warn):
        return self.model(), self.sha256


class Hall:
    """See `transport.Transport`."""

    def __init__(self, opening=None, wanted=2):
        self.wanted = wanted
        self.opening = opening or Opened()
        self.stations = {}
        self.sent = []
        self._answers = SimpleQueue()
        self._pool = ThreadPoolExecutor(32)
        self._hired = 0

    def start_worker(self):
        self._hired += 1
        self.stations[self._hired] = Worker(self.opening)
        return self._hired

    def stop_worker(self, worker):
        self._forget(worker)

    def kill(self, worker, noticed=0.0):
        """Lose a worker: from now on nobody hears it, and it hears nobody.

        Args:
            worker: which.
            noticed: seconds after which the run learns of it; by then a thread that unwinds has
                let go of what a killed process would have at once.
        """
        if self._forget(worker):
            told = [Reply(worker, "poll", WorkerGone("killed"))]
            threading.Timer(noticed, self._answers.put, told).start()

    def _forget(self, worker):
        station = self.stations.pop(worker, None)
        if station is not None:
            station.stop()
            for leave in list(station._permissions.values()):
                leave.put(False)  # or its threads would wait forever
        return station is not None

    def send(self, worker, method, *facts):
        self.sent.append((worker, method, *facts))
        station = self.stations.get(worker)
        if station is not None:
            getattr(station, method)(*facts)

    def call_async(self, worker, method, *facts):
        self._pool.submit(self._ask, worker, method, *facts)

    def _ask(self, worker, method, *facts):
        station = self.stations.get(worker)
        if station is None:
            return
        value = self.hear(worker, getattr(station, method)(*facts))
        if worker in self.stations:
            self._answers.put(Reply(worker, method, value))

    def hear(self, worker, value):
        """What comes of an answer on its way; for tests to meddle with."""
        return value

    def replies(self, seconds):
        found = []
        try:
            found.append(self._answers.get(timeout=seconds))
            while True:
                found.append(self._answers.get_nowait())
        except Empty:
            return found

    def call(self, worker, method, *facts):
        return getattr(self.stations[worker], method)(*facts)


@dataclass
class Works(Setup):
    """Runs by a crew between two folders."""

    hall: Hall = field(default_factory=Hall)

    def crewed(self, settings=SETTINGS, options=None, **request):
        crew = WorkerPool(self.hall)
        crew.open(10)
        options = options or {}
        return self.run(
            settings=settings, options=RunOptions("dir", "sha", executor=crew, **options), **request
        )


def held_at_once(hall):
    """The most images that a worker ever held, by what was sent to it and what it finished."""
    return max(
        len(items) for _, method, *facts in hall.sent if method == "assign" for items in facts
    )


def stop_after_first(works, stop):
    """Ask for the end of a run as soon as a result is there."""
    while not works.out.is_dir() or not works.results():
        time.sleep(0.005)
    stop.request(ExitCode.SIGINT)
