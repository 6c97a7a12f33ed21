"""Resources of the workers: what each gets of the machines of a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from varfix.engine.errors import DeviceUnavailableError
from varfix.engine.settings.types import ClusterSettings, IoSettings, Settings

_CPUS: Final = 4.0
# Decoder threads, and as many encoder threads, which mostly wait for permission to publish.
_JOBS: Final = 8
_LEAST_MB, _MOST_MB = 512, 4096  # of images in flight


@dataclass(frozen=True)
class WorkerResources:
    """Resources of each worker, and the number of workers; memory is an estimate in bytes."""

    cpus: float
    gpus: float
    workers: int
    memory: float


def resources_for(
    wanted: ClusterSettings, nodes: list[Mapping[str, float]], device: str
) -> WorkerResources:
    """Complete the cluster settings for the given machines.

    Args:
        wanted: The settings.
        nodes: CPUs, GPUs and memory of each machine, by Ray's names `CPU`, `GPU`, `memory`.
        device: The device setting; with `cpu`, workers get no GPUs.

    Raises:
        DeviceUnavailableError: No machine has enough resources for a worker.
    """
    gpus = wanted.gpus
    if gpus is None:
        gpus = 1.0 if device != "cpu" and any(node.get("GPU") for node in nodes) else 0.0
    useful = [node for node in nodes if node.get("GPU", 0.0) >= gpus]
    cpus = wanted.cpus or min([_CPUS, *(_cpus_each(node, gpus) for node in useful)])
    room = sum(_workers_on(node, cpus, gpus) for node in useful)
    if not room:
        raise DeviceUnavailableError(
            f"no machine of the cluster has {cpus:g} CPUs and {gpus:g} GPUs for a worker",
            hint="lower cluster.cpus or cluster.gpus, e.g. --set cluster.cpus=1",
        )
    memory = min(
        node.get("memory", 0.0) / _workers_on(node, cpus, gpus)
        for node in useful
        if _workers_on(node, cpus, gpus)
    )
    return WorkerResources(cpus, gpus, wanted.workers or room, memory)


def worker_settings(settings: Settings, resources: WorkerResources) -> Settings:
    """Return the settings of each worker, completed by its resources."""
    queue = settings.io.queue_mb
    if queue is None:
        queue = min(max(int(resources.memory / 4) >> 20, _LEAST_MB), _MOST_MB)
    no_gpu = settings.device == "auto" and not resources.gpus
    return replace(
        settings,
        device="cpu" if no_gpu else settings.device,
        io=IoSettings(queue_mb=queue, jobs=settings.io.jobs or _JOBS),
    )


def _cpus_each(node: Mapping[str, float], gpus: float) -> float:
    """Return the CPUs of a machine for each worker that fits its GPUs; at least 1."""
    workers = max(1, int(node.get("GPU", 0.0) / gpus)) if gpus else 1
    return max(1.0, node.get("CPU", 0.0) // workers)


def _workers_on(node: Mapping[str, float], cpus: float, gpus: float) -> int:
    by_cpu = int(node.get("CPU", 0.0) / cpus)
    return min(by_cpu, int(node["GPU"] / gpus)) if gpus else by_cpu
