"""`--cluster`: restore on the workers of a Ray cluster."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import click

from varfix.cli.options import Decorator, option
from varfix.cli.terminal import Terminal

if TYPE_CHECKING:
    from varfix.engine.cluster.pool import Crew
    from varfix.engine.cluster.worker import Facts
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


@contextmanager
def start_pool(
    address: str, settings: Settings, terminal: Terminal
) -> Iterator[tuple[Crew, Settings, Any]]:
    """Start the workers of a cluster and stop them after the block.

    Args:
        address: Value of `cluster_option`.
        settings: Resolved settings.
        terminal: Shows progress.

    Yields:
        The pool, the settings of each worker, and the remote model.

    Raises:
        ConfigError: Ray is not installed.
        DeviceError: There is no such cluster, or no room in it.
        ModelError: The model is missing, or not one that varfix runs.
    """
    with ExitStack() as stack:
        with terminal.busy(f"Connecting to the cluster ({address})"):
            from varfix.engine.cluster.pool import Crew
            from varfix.engine.cluster.ray_transport import Cluster, settings_for, share_of
            from varfix.onnx.inference.remote_loader import pack_model

            cluster = Cluster(address)
            stack.callback(cluster.close)
            share = share_of(settings.cluster, cluster.nodes(), settings.device)
            settings = settings_for(settings, share)
            link = cluster.link(pack_model(settings, max(1, int(share.cpus))), share)
            stack.callback(link.close)
        crew = Crew(link)
        workers = f"{share.workers} worker{'s' if share.workers > 1 else ''}"
        with terminal.busy(f"Starting {workers} ({share.cpus:g} CPUs, {share.gpus:g} GPUs each)"):
            facts = crew.open(_START_TIMEOUT)
        yield crew, settings, _model(crew, facts)


def _model(crew: Crew, facts: Facts) -> Any:
    """Return the model of the first worker that is ready."""
    from varfix.engine.cluster.worker import DistantModel

    first = next(number for number, post in crew.posts.items() if post.facts is facts)
    ask: Callable[..., object] = partial(crew.link.call, first)
    return DistantModel(facts, ask)
