"""`--cluster`: restore on the workers of a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click

from varfix.cli.options import Decorator, option
from varfix.cli.terminal import Terminal
from varfix.engine.system.counts import counted

if TYPE_CHECKING:
    from varfix.engine.cluster.messages import WorkerInfo
    from varfix.engine.cluster.pool import WorkerPool
    from varfix.engine.restoration.restorer import Restorer
    from varfix.engine.settings.types import Settings

# Seconds until the first worker must be ready: a cluster may have to start a machine first.
_START_TIMEOUT: Final = 600.0
_ADDRESS: Final = re.compile(r"auto|ray://[^\s/]+:\d+")


def _checked(context: click.Context, parameter: click.Parameter, text: str | None) -> str | None:
    """Reject invalid addresses (click.BadParameter)."""
    if text is not None and not _ADDRESS.fullmatch(text):
        raise click.BadParameter(f"expected auto or ray://HOST:PORT, got {text}")
    return text


cluster_option: Decorator = option(
    "Machine",
    "--cluster",
    metavar="auto|ray://HOST:PORT",
    callback=_checked,
    help="Restore on a Ray cluster; 'auto' is the cluster that this machine belongs to. SRC and"
    " DST must be the same folders on all machines.",
)


@dataclass(frozen=True)
class StartedPool:
    """The workers of a cluster, of which the first is ready.

    Attributes:
        pool: The workers.
        settings: The settings of each worker.
        model: The model of the worker that is ready.
    """

    pool: WorkerPool
    settings: Settings
    model: Restorer


@contextmanager
def start_pool(address: str, settings: Settings, terminal: Terminal) -> Iterator[StartedPool]:
    """Start the workers of a cluster; stop them after the block.

    Args:
        address: The value of `cluster_option`.
        settings: Resolved settings.
        terminal: Shows what the command waits for.

    Raises:
        ConfigError: Ray is not installed.
        DeviceError: The cluster does not exist, or has no free resources.
        ModelError: The model is missing, or not one that varfix runs.
    """
    with ExitStack() as stack:
        with terminal.busy(f"Connecting to the cluster ({address})"):
            from varfix.engine.cluster.pool import WorkerPool
            from varfix.engine.cluster.ray_transport import RayCluster
            from varfix.engine.cluster.resources import resources_for, worker_settings
            from varfix.onnx.inference.remote_loader import pack_model

            cluster = RayCluster(address)
            stack.callback(cluster.close)
            resources = resources_for(settings.cluster, cluster.nodes(), settings.device)
            settings = worker_settings(settings, resources)
            loader = pack_model(settings, max(1, int(resources.cpus)))
            transport = cluster.transport(loader, resources)
            stack.callback(transport.close)
        pool = WorkerPool(transport)
        workers = counted(resources.workers, "worker")
        with terminal.busy(
            f"Starting {workers} ({resources.cpus:g} CPUs, {resources.gpus:g} GPUs each)"
        ):
            info = pool.open(_START_TIMEOUT)
        yield StartedPool(pool, settings, _model(pool, info))


def _model(pool: WorkerPool, info: WorkerInfo) -> Restorer:
    """Return the model of the worker that was ready first."""
    from varfix.engine.cluster.remote_restorer import RemoteRestorer

    first = next(number for number, state in pool.workers.items() if state.info is info)
    return RemoteRestorer(info, pool.transport, first)
