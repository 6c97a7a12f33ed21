"""A Ray cluster of a head and two machines, which are processes on this machine."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from support.fake_cluster import NAMES, ClusterSetup

START = 120
# A token in the user's home folder must not lock the tests out of their own cluster.
OPEN = {"RAY_AUTH_MODE": "disabled"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Machines:
    """The processes of a cluster, in the order of their start."""

    address: str
    client: str
    started: list

    def workers(self):
        """Return the processes of the workers of all runs."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or [""]
            if words[0].startswith("ray::Worker"):
                found.append(process)
        return found


def ray(*words, folder):
    command = [Path(sys.executable).with_name("ray"), "start", "--block", *map(str, words)]
    # Ray would give its workers a lower priority than other programs.
    settings = {"RAY_worker_niceness": "0", "RAY_TMPDIR": folder}
    settings |= {"RAY_CLIENT_RECONNECT_GRACE_PERIOD": "3"}
    with Path(folder, "log.txt").open("ab") as log:
        return subprocess.Popen(
            [*command, "--disable-usage-stats"],
            env=os.environ | OPEN | settings,
            stdout=log,
            stderr=log,
        )


@pytest.fixture(scope="module")
def machines():
    """Start a head without CPUs, and two machines with one each."""
    pytest.importorskip("ray")
    folder = tempfile.mkdtemp(prefix="vf", dir="/tmp")  # names of sockets must be short
    port, client = free_port(), free_port()
    address = f"127.0.0.1:{port}"
    head = ("--head", "--port", port, "--ray-client-server-port", client, "--num-cpus", 0)
    started = [ray(*head, "--include-dashboard=false", "--temp-dir", folder, folder=folder)]
    try:
        wait_for_machines(1, folder)
        for number in range(2):  # at the same time they would choose the same names of sockets
            started.append(ray("--address", address, "--num-cpus", 1, folder=folder))
            wait_for_machines(2 + number, folder)
        yield Machines(address, f"ray://127.0.0.1:{client}", started)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_machines(count, folder):
    """Wait until `count` machines, including the head, run."""
    log, end = Path(folder, "log.txt"), time.monotonic() + START
    while log.read_text(errors="replace").count("Ray runtime started") < count:
        assert time.monotonic() < end, log.read_text(errors="replace")[-2000:]
        time.sleep(0.2)


@pytest.fixture
def halving(shelf):
    """A slow model that halves values."""
    nodes = [("Mul", ["tile", "half"], ["restored"], {})]
    nodes.insert(0, ("Div", ["c1", "c2"], ["half"], {}))
    return shelf.restore("halving.onnx", nodes)


@dataclass
class Job:
    """Runs of `varfix dir` between two folders, with a log file."""

    source: Path
    target: Path
    log: Path
    model: Path
    machines: Machines

    def command(self, cluster, *options):
        where = [self.source, self.target, "-m", self.model, "--set", "cluster.cpus=1"]
        place = [] if cluster is None else ["--cluster", cluster]
        words = ["dir", *where, "--log-file", self.log, *options, *place]
        return [sys.executable, "-m", "varfix.cli", *map(str, words)]

    def start(self, cluster="auto", *options):
        """Start a run; without a cluster, in one process."""
        environment = os.environ | OPEN | {"RAY_ADDRESS": self.machines.address}
        return subprocess.Popen(
            self.command(cluster, *options),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def results(self):
        return {
            path.relative_to(self.target).as_posix(): path.read_bytes()
            for path in self.target.rglob("*.png")
            if not path.name.startswith(".")
        }

    def entries(self):
        lines = (self.target / ".varfix" / "run.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        return {entry["dst"]: {**entry, "seconds": 0} for entry in found}

    def events(self, kind):
        lines = self.log.read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def wait_until(self, count, process):
        """Wait for `count` results while the run continues."""
        end = time.monotonic() + 240
        while len(self.results()) < count:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)


@pytest.fixture
def job(tmp_path, halving, machines):
    rng = np.random.default_rng(9)
    for number in range(300):
        path = tmp_path / "in" / f"{number % 5}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(path)
    return Job(tmp_path / "in", tmp_path / "out", tmp_path / "events.jsonl", halving, machines)


@pytest.fixture
def local(job, tmp_path):
    """Results and manifest of a run in one process."""
    folder = tmp_path / "local"
    folder.mkdir()
    job_here = Job(job.source, folder / "out", folder / "events.jsonl", job.model, job.machines)
    subprocess.run(job_here.command(None), check=True, capture_output=True)
    return job_here


@pytest.fixture
def setup(tmp_path):
    """Return a run of twelve images on a cluster that is not real."""
    setup = ClusterSetup(tmp_path / "in", tmp_path / "out")
    setup.draw(*NAMES)
    return setup
