"""CPU cores and NVIDIA GPUs of this machine.

GPUs are read from `nvidia-smi`, which comes with the driver: it needs no library, and initializes
nothing in this process.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from varfix.engine.errors import ConfigError
from varfix.engine.system.display_names import single_line

_PCI: Final = Path("/sys/bus/pci/devices")
_NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"  # first byte of the PCI class of graphics and 3D controllers
_TIMEOUT: Final = 10.0  # seconds; a sleeping GPU takes two or three to wake
_CPUS: Final = Path("/sys/devices/system/cpu")
_QUOTA: Final = Path("/sys/fs/cgroup/cpu.max")

THREADS_VARIABLE: Final = "VARFIX_THREADS"
"""Environment variable that limits the threads of a computation, for shared machines."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as reported by the driver; memory in MB."""

    name: str
    free_mb: int
    total_mb: int


def gpu_visible(pci: Path = _PCI) -> bool:
    """Return whether an NVIDIA GPU is present and not hidden from this process."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return shutil.which("nvidia-smi") is not None or _on_bus(pci)


def _on_bus(pci: Path) -> bool:
    """Return whether a GPU is on the PCI bus, perhaps without a driver in this container."""
    return any(
        (device / "vendor").read_text().strip() == _NVIDIA
        and (device / "class").read_text().startswith(_DISPLAY)
        for device in (pci.iterdir() if pci.is_dir() else ())
    )


def list_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that the driver reports; empty without driver or GPU."""
    return _query([])


def find_gpu(index: int) -> Gpu | None:
    """Return the GPU that CUDA calls `index` in this process, or None if it is not reported."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(index)] * (index + 1)
    found = _query(["--id", names[index].strip()]) if index < len(names) else ()
    return found[0] if found else None


def _query(selection: list[str]) -> tuple[Gpu, ...]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    command = [
        program,
        "--query-gpu=name,memory.free,memory.total",
        "--format=csv,noheader,nounits",
    ]
    try:
        done = subprocess.run(
            [*command, *selection], capture_output=True, text=True, timeout=_TIMEOUT, check=True
        )
        return tuple(_parse(line) for line in done.stdout.splitlines() if line.strip())
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()  # a broken driver: the CUDA provider reports the reason


def _parse(line: str) -> Gpu:
    name, free, total = (part.strip() for part in line.rsplit(",", 2))
    return Gpu(name=name, free_mb=int(free), total_mb=int(total))


def usable_cores() -> int:
    """Return the number of physical cores that this process may use, at least 1.

    A second thread per core does not speed up convolutions. CPU affinity (taskset, Slurm, cpuset)
    and the CPU quota of a container are respected.

    Raises:
        ConfigError: `VARFIX_THREADS` is not a positive integer.
    """
    if sys.platform != "linux":
        return max(1, min(psutil.cpu_count(logical=False) or os.cpu_count() or 1, _thread_limit()))
    allowed = os.sched_getaffinity(0)
    cores = {_siblings(_CPUS, cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota(_QUOTA), _thread_limit()))


def _thread_limit() -> int:
    text = os.environ.get(THREADS_VARIABLE, "").strip()
    if not text:
        return sys.maxsize
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(
            f'{THREADS_VARIABLE}: expected a positive integer, got "{single_line(text)}"',
            hint=f"set it to a number of threads, such as {THREADS_VARIABLE}=4, or unset it",
        )
    return int(text)


def _siblings(cpus: Path, cpu: int) -> str:
    """Return an identifier of the core of the logical CPU `cpu`."""
    try:
        return (cpus / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)  # no topology in this sandbox: every CPU counts as a core


def _quota(path: Path) -> int:
    """Return the CPU quota of the container, rounded up."""
    try:
        limit, period = path.read_text().split()
        return max(1, math.ceil(int(limit) / int(period)))
    except (OSError, ValueError):  # no cgroup v2 here, or the limit is "max"
        return sys.maxsize
