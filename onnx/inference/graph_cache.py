"""Optimized graphs kept for next time: half of what loading a model takes is done only once.

ONNX Runtime folds constants, fuses nodes and lays weights out for this very processor whenever a
session starts. What comes of it is kept in the user's cache folder, under a name made of everything
that it depends on: the graph, the runtime, the processor, the pinned sizes. A kept graph gives the
same results bit for bit, is written in one step, and is never needed: where the folder cannot be
written, or what lies there cannot be read, sessions start as if there were none.
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

Begun = TypeVar("Begun")

_SUFFIX: Final = ".onnx"
# Smaller graphs start in no time; of larger ones, gigabytes would be kept twice.
_WORTHWHILE: Final = range(1 << 20, 256 << 20)
_KEPT: Final = 12  # graphs; each model of the kind that ships takes two
_ROOM: Final = 16  # times the graph's size must be free on the disk
_ABANDONED: Final = 24 * 3600.0  # seconds after which a half-written graph is nobody's
_PROCESSOR: Final = Path("/proc/cpuinfo")
_PROCESSOR_BYTES: Final = 8192  # of it, which hold the whole first processor


@dataclass(frozen=True)
class Source:
    """What a session is to be started from.

    Attributes:
        graph: The file to read.
        optimized: It needs no more work.
        keep: Where to write the graph that comes of the work, if anywhere.
    """

    graph: Path
    optimized: bool = False
    keep: Path | None = None


def begin_warm(
    model: Path, facts: Callable[[], Sequence[str]], begin: Callable[[Source], Begun]
) -> Begun:
    """Start a session from the kept graph if there is one; else from `model`, and keep it.

    Args:
        model: The graph file.
        facts: Gives all that an optimized graph depends on, besides the processor.
        begin: Starts a session; raises whatever it likes.

    Raises:
        Exception: What `begin` raises for the model itself.
    """
    if model.stat().st_size not in _WORTHWHILE:
        return begin(Source(model))
    kept = graphs_folder() / f"{_key([*facts(), *_processor()])}{_SUFFIX}"
    if kept.is_file():
        with contextlib.suppress(Exception):  # damaged: it is made again below
            begun = begin(Source(kept, optimized=True))
            _mark_used(kept)
            return begun
    return _begin_keeping(model, kept, begin)


def graphs_folder() -> Path:
    """Return the folder of the kept graphs."""
    return cache_folder() / "graphs"


def _begin_keeping(model: Path, kept: Path, begin: Callable[[Source], Begun]) -> Begun:
    # Processes that start at once each write a file of their own; the last one's stays.
    part = kept.with_name(f".{kept.stem}.{uuid.uuid4().hex}.part")
    if not _can_keep(model, kept.parent):
        return begin(Source(model))
    try:
        begun = begin(Source(model, keep=part))
        with contextlib.suppress(OSError):
            _publish(part, kept)
        return begun
    except Exception:  # of the model, which will raise it again, or of the disk
        return begin(Source(model))
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
    """Give a written graph its name, and make room: a power cut must not leave half of one."""
    flush_and_rename(part, kept)
    _prune(kept.parent)


def _prune(folder: Path) -> None:
    """Remove what was not used for longest, and what was never finished."""
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


def _key(facts: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def _processor() -> tuple[str, ...]:
    """Say which processor this is: one home folder may serve machines of several kinds."""
    facts = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError), _PROCESSOR.open("rb") as file:
        text = file.read(_PROCESSOR_BYTES).decode("ascii", "replace")
        wanted = ("model name", "flags", "Features", "CPU part")
        lines = (line for line in text.split("\n\n")[0].splitlines() if line.startswith(wanted))
        facts += lines
    return tuple(facts)
