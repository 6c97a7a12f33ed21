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
from varfix.engine.errors import ExitCode, Interrupted
from varfix.engine.events import Warn
from varfix.engine.restoration.restorer import OpenedModel

NAMES = [f"{number % 3}/{number}.png" for number in range(12)]
"""Images of a run."""


@dataclass
class FakeLoader:
    """A `ModelLoader` that makes the model by a function without arguments."""

    model: object = Inverter
    sha256: str = "sha"

    def __call__(self, warn):
        return OpenedModel(self.model(), self.sha256)


class LosableWorker(Worker):
    """A worker in threads, which writes nothing any more once it is lost, as a killed process."""

    def __init__(self, loader):
        super().__init__(loader)
        self._writing = threading.Lock()
        self._lost = False

    def publish(self, item, entry, write):
        def write_unless_lost():
            with self._writing:
                if self._lost:
                    raise Interrupted("killed")
                write()

        super().publish(item, entry, write_unless_lost)

    def lose(self):
        """Return when nothing is being written, and nothing will be."""
        with self._writing:
            self._lost = True


class FakeTransport:
    """A `transport.Transport` to workers in this process.

    Attributes:
        workers: The workers by number.
        sent: Worker, method and arguments of each call of `send`.
    """

    def __init__(self, loader=None, wanted=2):
        self.wanted = wanted
        self.loader = loader or FakeLoader()
        self.workers = {}
        self.sent = []
        self._replies = SimpleQueue()
        self._threads = ThreadPoolExecutor(32)
        self._started = 0

    def start_worker(self):
        self._started += 1
        self.workers[self._started] = LosableWorker(self.loader)
        return self._started

    def stop_worker(self, worker):
        self._remove(worker)

    def number_of(self, restorer):
        """Return the number of the worker that has a model."""
        return next(number for number, w in self.workers.items() if w._restorer is restorer)

    def kill(self, worker, seconds=0.0):
        """Lose a worker: from now on no call reaches it, and none of its replies arrive.

        Args:
            worker: Its number.
            seconds: Time until the run notices; by then a thread of the worker has released what
                a killed process would have released at once.
        """
        lost = self.workers.get(worker)
        if self._remove(worker):
            lost.lose()
            reply = Reply(worker, WorkerGone("killed"))
            threading.Timer(seconds, self._replies.put, [reply]).start()

    def _remove(self, number):
        worker = self.workers.pop(number, None)
        if worker is not None:
            worker.stop()
            for permission in list(worker._permissions.values()):
                permission.put(False)  # or its threads would wait forever
        return worker is not None

    def send(self, worker, method, *arguments):
        self.sent.append((worker, method, *arguments))
        if worker in self.workers:
            method(self.workers[worker], *arguments)

    def call_async(self, worker, method, *arguments):
        self._threads.submit(self._call, worker, method, *arguments)

    def _call(self, worker, method, *arguments):
        if worker not in self.workers:
            return
        value = self.on_reply(worker, method(self.workers[worker], *arguments))
        if worker in self.workers:
            self._replies.put(Reply(worker, value))

    def on_reply(self, worker, value):
        """Return the value that arrives; tests override this."""
        return value

    def replies(self, seconds):
        found = []
        try:
            found.append(self._replies.get(timeout=seconds))
            while True:
                found.append(self._replies.get_nowait())
        except Empty:
            return found

    def call(self, worker, method, *arguments):
        return method(self.workers[worker], *arguments)


@dataclass
class ClusterSetup(Setup):
    """Runs on a cluster between two folders."""

    transport: FakeTransport = field(default_factory=FakeTransport)

    def run_on_cluster(self, settings=SETTINGS, options=None, **request):
        pool = WorkerPool(self.transport)
        pool.open(10)
        options = RunOptions("dir", "sha", executor=pool, **(options or {}))
        return self.run(settings=settings, options=options, **request)


def most_assigned(transport):
    """Return the most items that were assigned to a worker in one call."""
    return max(
        len(items)
        for _, method, *arguments in transport.sent
        if method is Worker.assign
        for items in arguments
    )


def stop_after_first(setup, stop):
    """Request a stop as soon as there is a result."""
    while not setup.out.is_dir() or not setup.results():
        time.sleep(0.005)
    stop.request(ExitCode.SIGINT)


class TwoLoaders(FakeTransport):
    """Every second worker loads its model by another loader."""

    def __init__(self, other, wanted=2):
        super().__init__(wanted=wanted)
        self.other = other

    def start_worker(self):
        worker = super().start_worker()
        if worker % 2 == 0:
            self.workers[worker] = LosableWorker(self.other)
        return worker


def warning_codes(setup):
    """Return the codes of the warnings of a run, in order."""
    return [event.code for event in setup.of(Warn)]
