"""Ray: starts workers on the machines of a cluster and transports calls to them.

The only module that knows Ray. Workers are actors that Ray does not restart: a restarted process is
a new worker, so that no call reaches a process without the state that it needs.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Concatenate, Final

from varfix.engine.cluster.resources import WorkerResources
from varfix.engine.cluster.transport import (
    Arguments,
    Reply,
    ReplyingMethod,
    Result,
    WorkerGone,
)
from varfix.engine.cluster.worker import Worker
from varfix.engine.errors import ConfigError, DeviceError, DeviceUnavailableError
from varfix.engine.restoration.restorer import ModelLoader

_CALLS_AT_ONCE: Final = 8
_CONNECT_TIMEOUT: Final = 10.0  # seconds
# Ray's own messages stay off the terminal; its log files contain them.
_QUIET: Final = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
}


class RayCluster:
    """A connection to a cluster."""

    def __init__(self, address: str) -> None:
        """Connect.

        Args:
            address: `auto` for the cluster of this machine, or `ray://HOST:PORT`.

        Raises:
            ConfigError: Ray is not installed.
            DeviceUnavailableError: No cluster answers, or it has another version of Ray.
        """
        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        with needing_ray(), _keep_signals(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray

            _check_reachable(address)
            try:
                ray.init(address, logging_level=logging.CRITICAL, log_to_driver=False)
            except Exception as error:  # each way of connecting has errors of its own
                raise _connection_error(address, error) from error
        self.ray = ray

    def nodes(self) -> list[Mapping[str, float]]:
        """Return the total resources of each machine that is alive."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def transport(self, loader: ModelLoader, resources: WorkerResources) -> RayTransport:
        """Return a transport whose workers load their model by `loader`."""
        return RayTransport(self.ray, loader, resources)

    def close(self) -> None:
        """Disconnect."""
        self.ray.shutdown()


class RayTransport:
    """See `transport.Transport`."""

    def __init__(self, ray: Any, loader: ModelLoader, resources: WorkerResources) -> None:
        self.wanted = resources.workers
        self._ray = ray
        self._class = ray.remote(Worker).options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_restarts=0,
            max_concurrency=_CALLS_AT_ONCE,
        )
        self._loader = ray.put(loader)
        self._actors: dict[int, Any] = {}
        self._pending: dict[Any, int] = {}  # numbers of workers by Ray's references
        self._started = 0
        self._lock = threading.Lock()

    def start_worker(self) -> int:
        """Start an actor."""
        self._started += 1
        self._actors[self._started] = self._class.remote(self._loader)
        return self._started

    def stop_worker(self, worker: int) -> None:
        """Kill an actor, if it is alive, and drop its pending replies."""
        actor = self._actors.pop(worker)
        self._pending = {ref: other for ref, other in self._pending.items() if other != worker}
        self._ray.kill(actor, no_restart=True)

    def send(
        self,
        worker: int,
        method: Callable[Concatenate[Worker, Arguments], None],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> None:
        """Call without waiting for a reply; nothing happens if the worker is gone."""
        actor = self._actors.get(worker)
        if actor is not None:
            self._remote(actor, method, *arguments, **named)

    def call_async(
        self,
        worker: int,
        method: ReplyingMethod[Arguments],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> None:
        """Call; `replies` returns the reply."""
        ref = self._remote(self._actors[worker], method, *arguments, **named)
        self._pending[ref] = worker

    def replies(self, seconds: float) -> list[Reply]:
        """Wait for a first reply; return all that have arrived by then."""
        refs = list(self._pending)
        if not refs:
            threading.Event().wait(seconds)
            return []
        try:
            first, _ = self._ray.wait(refs, num_returns=1, timeout=seconds)
            done = first and self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]
        except Exception as error:
            raise _gone(error) from error
        return [self._reply(ref) for ref in done]

    def call(
        self,
        worker: int,
        method: Callable[Concatenate[Worker, Arguments], Result],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> Result:
        """Call and wait for the result."""
        try:
            ref = self._remote(self._actors[worker], method, *arguments, **named)
            result: Result = self._ray.get(ref)
        except Exception as error:
            raise DeviceError(f"the worker failed: {_reason(error)}") from error
        return result

    def _remote(
        self,
        actor: Any,
        method: Callable[Concatenate[Worker, Arguments], object],
        *arguments: Arguments.args,
        **named: Arguments.kwargs,
    ) -> Any:
        """Call a method of an actor; return Ray's reference to the result."""
        with self._lock:
            return getattr(actor, method.__name__).remote(*arguments, **named)

    def close(self) -> None:
        """Stop all workers."""
        for worker in list(self._actors):
            self.stop_worker(worker)

    def _reply(self, ref: Any) -> Reply:
        worker = self._pending.pop(ref)
        try:
            return Reply(worker, self._ray.get(ref))
        except ConnectionError as error:
            raise _gone(error) from error
        except Exception as error:  # the worker has ended, or the method failed
            return Reply(worker, WorkerGone(_reason(error)))


@contextmanager
def needing_ray() -> Iterator[None]:
    """Turn a missing package of the extra `ray` into a ConfigError."""
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
def _keep_signals() -> Iterator[None]:
    """Restore the signal handlers that Ray replaces: a run handles signals itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _check_reachable(address: str) -> None:
    """Check that a known address answers; Ray itself would try for minutes.

    Raises:
        DeviceUnavailableError: The address does not answer.
    """
    place = os.environ.get("RAY_ADDRESS", "") if address == "auto" else address
    host, _, port = place.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), _CONNECT_TIMEOUT).close()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise DeviceUnavailableError(f"no cluster at {place} ({reason})") from error


def _connection_error(address: str, error: Exception) -> Exception:
    text = str(error)
    if "ray[client]" in text:
        return ConfigError(
            f"--cluster {address} needs grpc, which is not installed",
            hint='run: pip install "varfix[ray]"',
        )
    if address == "auto" and isinstance(error, ConnectionError):
        return DeviceUnavailableError(
            "this machine belongs to no cluster",
            hint="run 'ray start --head', or use --cluster ray://HOST:10001",
        )
    return DeviceUnavailableError(f"no cluster at {address} ({_reason(error)})")


def _gone(error: Exception) -> DeviceError:
    return DeviceError(
        f"lost the connection to the cluster ({_reason(error)})",
        hint="run the same command again to resume",
    )


def _reason(error: Exception) -> str:
    """Return the line of Ray's long texts that states the cause."""
    text = str(error)
    if "No module named 'varfix" in text:
        return "varfix is not installed on the workers' machines"
    for mark, short in _REASONS.items():
        if mark in text:
            return short
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


_REASONS: Final = {
    "memory pressure": "killed: out of memory",
    "running low on memory": "killed: out of memory",
    "node died": "its machine was lost",
    "node has died": "its machine was lost",
    "node was terminated": "its machine was lost",
    "worker process has died": "its process died",
    "Worker unexpectedly exits": "its process died",
    "has failed its health check": "its machine does not answer",
    "version": "another version of Ray or Python",
}
