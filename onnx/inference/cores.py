"""How many threads a computation should have here."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Final

import psutil

_CPUS: Final = Path("/sys/devices/system/cpu")
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")

THREADS_VARIABLE: Final = "VARFIX_THREADS"
"""Names the most threads that a computation may have, where others compute on the same machine."""


def usable_cores() -> int:
    """Return the physical cores this process may run on, at least 1.

    Two threads on one core share its arithmetic units: the second brings nothing to convolutions.
    Affinity (taskset, Slurm, a container's cpuset) and a container's CPU quota both count.
    """
    if sys.platform != "linux":
        return max(1, min(psutil.cpu_count(logical=False) or os.cpu_count() or 1, _asked()))
    allowed = os.sched_getaffinity(0)
    cores = {_siblings(_CPUS, cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota(_QUOTA), _asked()))


def _asked() -> int:
    text = os.environ.get(THREADS_VARIABLE, "")
    return int(text) if text.isdecimal() else sys.maxsize


def _siblings(cpus: Path, cpu: int) -> str:
    """Return a name of the core that logical CPU `cpu` belongs to."""
    try:
        return (cpus / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)  # no topology in this sandbox: every CPU counts as a core


def _quota(path: Path) -> int:
    """Return the CPUs that the container's quota pays for, rounded up."""
    try:
        limit, period = path.read_text().split()
        return max(1, math.ceil(int(limit) / int(period)))
    except (OSError, ValueError):  # no cgroup v2 here, or the limit is "max"
        return sys.maxsize
