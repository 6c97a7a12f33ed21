"""Ray: starts workers on the machines of a cluster and carries calls to them.

The only module that knows Ray. Workers are actors that Ray does not restart by itself: a new
life is a new worker, so that nothing is ever told to one that does not know of it.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from msgspec.structs import replace

from varfix.engine.cluster.transport import Answer, Lost
from varfix.engine.cluster.worker import Opening, Station
from varfix.engine.errors import ConfigError, DeviceError, DeviceUnavailableError
from varfix.engine.settings.types import ClusterSettings, IoSettings, Settings

_CALLS_AT_ONCE: Final = 8
_CPUS: Final = 4.0
# Threads that read, and as many that write: those that write mostly wait for leave to publish.
_JOBS: Final = 8
_KNOCK: Final = 10.0  # seconds
_LEAST_MB, _MOST_MB = 512, 4096  # of images in flight
# What Ray's own messages are to say on the terminal of a run: nothing. Its log files have them.
_QUIET: Final = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
}


@dataclass(frozen=True)
class Share:
    """What each worker gets, and how many there are; its memory is in bytes, and only a guess."""

    cpus: float
    gpus: float
    workers: int
    memory: float


def share_of(wanted: ClusterSettings, nodes: list[Mapping[str, float]], device: str) -> Share:
    """Settle what was left open.

    Args:
        wanted: as set.
        nodes: CPUs and GPUs of each machine, under the names `CPU` and `GPU`.
        device: as set; only a name of its own keeps workers from GPUs.

    Raises:
        DeviceUnavailableError: No machine has so much for one worker.
    """
    gpus = wanted.gpus
    if gpus is None:
        gpus = 1.0 if device != "cpu" and any(node.get("GPU") for node in nodes) else 0.0
    useful = [node for node in nodes if node.get("GPU", 0.0) >= gpus]
    cpus = wanted.cpus or min([_CPUS, *(_cpus_each(node, gpus) for node in useful)])
    room = sum(_room(node, cpus, gpus) for node in useful)
    if not room:
        raise DeviceUnavailableError(
            f"no machine of the cluster has {cpus:g} CPUs and {gpus:g} GPUs for a worker",
            hint="see cluster.cpus and cluster.gpus",
        )
    memory = min(
        node.get("memory", 0.0) / _room(node, cpus, gpus)
        for node in useful
        if _room(node, cpus, gpus)
    )
    return Share(cpus, gpus, wanted.workers or room, memory)


def settings_for(settings: Settings, share: Share) -> Settings:
    """What each worker works by: what was left open is settled by its share of a machine."""
    queue = settings.io.queue_mb
    if queue is None:
        queue = min(max(int(share.memory / 4) >> 20, _LEAST_MB), _MOST_MB)
    without = settings.device == "auto" and not share.gpus
    return replace(
        settings,
        device="cpu" if without else settings.device,
        io=IoSettings(queue_mb=queue, jobs=settings.io.jobs or _JOBS),
    )


def _cpus_each(node: Mapping[str, float], gpus: float) -> float:
    """The CPUs of a machine for each worker that its GPUs have room for; at least one."""
    workers = max(1, int(node.get("GPU", 0.0) / gpus)) if gpus else 1
    return max(1.0, node.get("CPU", 0.0) // workers)


def _room(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0.0) / cpus)
    return min(by_cpu, int(node["GPU"] / gpus)) if gpus else by_cpu


class Cluster:
    """A connection to a cluster."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: `auto` for the cluster that this machine belongs to, or `ray://HOST:PORT`.

        Raises:
            ConfigError: Ray is not installed.
            DeviceUnavailableError: Nobody answers there, or it is another version of Ray.
        """
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        with needing_ray(), _signals_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray

            _knock(address)
            try:
                ray.init(address, logging_level=logging.CRITICAL, log_to_driver=False)
            except Exception as error:  # each way of connecting has errors of its own
                raise _unconnected(address, error) from error
        self.ray = ray

    def nodes(self) -> list[Mapping[str, float]]:
        """What each living machine has in all."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def link(self, opening: Opening, share: Share) -> RayLink:
        """A link whose workers open their model by `opening`."""
        return RayLink(self.ray, opening, share)

    def close(self) -> None:
        """Disconnect."""
        self.ray.shutdown()


class RayLink:
    """See `link.Link`."""

    def __init__(self, ray: Any, opening: Opening, share: Share) -> None:
        self.wanted = share.workers
        self._ray = ray
        self._class = ray.remote(Station).options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_restarts=0,
            max_concurrency=_CALLS_AT_ONCE,
        )
        self._opening = ray.put(opening)
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, tuple[int, str]] = {}
        self._hired = 0
        self._lock = threading.Lock()

    def hire(self) -> int:
        """Have an actor started."""
        self._hired += 1
        self._actors[self._hired] = self._class.remote(self._opening)
        return self._hired

    def dismiss(self, worker: int) -> None:
        """Kill an actor, if it still lives, and forget what it was asked."""
        actor = self._actors.pop(worker)
        self._asked = {ref: asked for ref, asked in self._asked.items() if asked[0] != worker}
        self._ray.kill(actor, no_restart=True)

    def send(self, worker: int, method: str, *facts: Any) -> None:
        """Call without waiting; who is gone hears nothing."""
        actor = self._actors.get(worker)
        if actor is not None:
            with self._lock:
                getattr(actor, method).remote(*facts)

    def ask(self, worker: int, method: str, *facts: Any) -> None:
        """Call; the answer is among `answers`."""
        with self._lock:
            ref = getattr(self._actors[worker], method).remote(*facts)
        self._asked[ref] = worker, method

    def answers(self, seconds: float) -> list[Answer]:
        """Wait for the first answer, and take those that are there by then."""
        refs = list(self._asked)
        if not refs:
            threading.Event().wait(seconds)
            return []
        try:
            first, _ = self._ray.wait(refs, num_returns=1, timeout=seconds)
            done = first and self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]
        except Exception as error:
            raise _gone(error) from error
        return [self._answer(ref) for ref in done]

    def call(self, worker: int, method: str, *facts: Any) -> Any:
        """Call and wait."""
        try:
            return self._ray.get(getattr(self._actors[worker], method).remote(*facts))
        except Exception as error:
            raise DeviceError(f"the worker failed: {_reason(error)}") from error

    def close(self) -> None:
        """Dismiss everybody."""
        for worker in list(self._actors):
            self.dismiss(worker)

    def _answer(self, ref: Any) -> Answer:
        worker, method = self._asked.pop(ref)
        try:
            return Answer(worker, method, self._ray.get(ref))
        except ConnectionError as error:
            raise _gone(error) from error
        except Exception as error:  # of the worker's end, or of the method itself
            return Answer(worker, method, Lost(_reason(error)))


@contextmanager
def needing_ray() -> Iterator[None]:
    """Import what only the extra `ray` brings inside the block (ConfigError)."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("ray", "grpc"):
            raise
        raise ConfigError(
            f"--cluster needs {error.name}, which is not installed",
            hint='run: pip install "varfix[ray]"',
        ) from error


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Undo that Ray listens to signals: a run answers them by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _knock(address: str) -> None:
    """See that somebody is there, where the place is known: Ray would try for minutes.

    Raises:
        DeviceUnavailableError: Nobody listens.
    """
    place = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = place.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), _KNOCK).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DeviceUnavailableError(f"no cluster at {place} ({reason})") from error


def _unconnected(address: str, error: Exception) -> Exception:
    text = str(error)
    if "ray[client]" in text:
        return ConfigError(
            f"--cluster {address} needs grpc, which is not installed",
            hint='run: pip install "varfix[ray]"',
        )
    if address == "auto" and isinstance(error, ConnectionError):
        return DeviceUnavailableError(
            "this machine belongs to no cluster",
            hint="start one with 'ray start --head', or name one: --cluster ray://HOST:10001",
        )
    return DeviceUnavailableError(f"no cluster at {address} ({_reason(error)})")


def _gone(error: Exception) -> DeviceError:
    return DeviceError(
        f"the cluster is gone ({_reason(error)})",
        hint="run the same command again, once it is back",
    )


def _reason(error: Exception) -> str:
    """The line of Ray's long texts that says what happened."""
    text = str(error)
    if "No module named 'varfix" in text:
        return "varfix is not installed on the workers' machines"
    for mark, short in _REASONS.items():
        if mark in text:
            return short
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


_REASONS: Final = {
    "memory pressure": "killed for want of memory",
    "running low on memory": "killed for want of memory",
    "node died": "its machine is gone",
    "node has died": "its machine is gone",
    "node was terminated": "its machine is gone",
    "worker process has died": "its process died",
    "Worker unexpectedly exits": "its process died",
    "has failed its health check": "its machine does not answer",
    "version": "another version of Ray or Python",
}
