"""Cache of optimized graphs, which halves the time to load a model.

ONNX Runtime optimizes a graph for the processor whenever a session starts. The optimized graph is
cached under a hash of the graph, the runtime, the processor and the pinned sizes. It gives the same
results bit for bit, and is written atomically. Without a readable or writable cache, sessions start
from the original graph.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from varfix.engine.system.app_folders import cache_folder
from varfix.engine.system.atomic import flush_and_rename
from varfix.engine.system.disk_space import free_bytes

Started = TypeVar("Started")

_SUFFIX: Final = ".onnx"
# Smaller graphs start fast; larger ones would take gigabytes.
_WORTHWHILE: Final = range(1 << 20, 256 << 20)
_KEPT: Final = 12  # graphs; a shipped model has two
_ROOM: Final = 16  # free disk space, as a multiple of the size of the graph
_ABANDONED: Final = 24 * 3600.0  # seconds after which a partly written graph is removed
_PROCESSOR: Final = Path("/proc/cpuinfo")
_PROCESSOR_BYTES: Final = 8192  # they describe the first processor


@dataclass(frozen=True)
class GraphSource:
    """The graph of a session.

    Attributes:
        graph: The file to read.
        optimized: Whether the graph is already optimized.
        keep: Path to write the optimized graph to, or None.
    """

    graph: Path
    optimized: bool = False
    keep: Path | None = None


def start_cached(
    model: Path, properties: Callable[[], Sequence[str]], begin: Callable[[GraphSource], Started]
) -> Started:
    """Start a session from the cached graph, or from `model`, and cache its optimized graph.

    Args:
        model: The graph file.
        properties: Returns everything that the optimized graph depends on, except the processor.
        begin: Starts a session.

    Raises:
        Exception: As `begin` raises for `model`.
    """
    if model.stat().st_size not in _WORTHWHILE:
        return begin(GraphSource(model))
    kept = graph_cache_folder() / f"{_key([*properties(), *_processor()])}{_SUFFIX}"
    if kept.is_file():
        with contextlib.suppress(Exception):  # damaged: optimized again below
            started = begin(GraphSource(kept, optimized=True))
            _mark_used(kept)
            return started
    return _start_and_cache(model, kept, begin)


def graph_cache_folder() -> Path:
    """Return the folder of the cached graphs."""
    return cache_folder() / "graphs"


def _start_and_cache(model: Path, kept: Path, begin: Callable[[GraphSource], Started]) -> Started:
    # Concurrent processes write their own files; the last one remains.
    part = kept.with_name(f".{kept.stem}.{uuid.uuid4().hex}.part")
    if not _can_keep(model, kept.parent):
        return begin(GraphSource(model))
    try:
        started = begin(GraphSource(model, keep=part))
        with contextlib.suppress(OSError):
            _publish(part, kept)
        return started
    except Exception:  # the model raises it again; errors of the disk do not matter
        return begin(GraphSource(model))
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _can_keep(model: Path, folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = free_bytes(folder)
        return os.access(folder, os.W_OK) and free > _ROOM * model.stat().st_size
    except OSError:
        return False


def _publish(part: Path, kept: Path) -> None:
    """Rename a written graph to its final name, after flushing it, and remove old graphs."""
    flush_and_rename(part, kept)
    _prune(kept.parent)


def _prune(folder: Path) -> None:
    """Remove the least recently used graphs and unfinished files."""
    now = time.time()
    aged = [(path.stat().st_mtime, path) for path in folder.iterdir() if path.is_file()]
    graphs = sorted((age, path) for age, path in aged if path.suffix == _SUFFIX)
    old = [path for _, path in graphs[:-_KEPT]]
    old += [path for age, path in aged if path.suffix == ".part" and now - age > _ABANDONED]
    for path in old:
        path.unlink(missing_ok=True)


def _mark_used(kept: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(kept)


def _key(properties: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(properties).encode()).hexdigest()[:32]


def _processor() -> tuple[str, ...]:
    """Identify the processor, because machines may share a home folder."""
    properties = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), _PROCESSOR.open("rb") as file:
        text = file.read(_PROCESSOR_BYTES).decode("ascii", "replace")
        wanted = ("model name", "flags", "Features", "CPU part")
        lines = (line for line in text.split("\n\n")[0].splitlines() if line.startswith(wanted))
        properties += lines
    return tuple(properties)
