"""What the machine says about its NVIDIA GPUs, whether or not ONNX Runtime can use them.

Asked of the driver's own `nvidia-smi`, which is there exactly when the driver is: no library to
install, and nothing to initialize in this process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PCI: Final = Path("/sys/bus/pci/devices")
_NVIDIA: Final = "0x10de"
_DISPLAY: Final = "0x03"  # first byte of the PCI class of graphics and 3D controllers
_TIMEOUT: Final = 10.0  # seconds; a sleeping GPU takes two or three to wake


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver sees it; memory in MB."""

    name: str
    free_mb: int
    total_mb: int


def gpu_visible(pci: Path = _PCI) -> bool:
    """Tell whether this process can expect an NVIDIA GPU: one is there, and it was not hidden."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return shutil.which("nvidia-smi") is not None or _on_bus(pci)


def _on_bus(pci: Path) -> bool:
    """Find a card whose driver is missing, or was not passed into this container."""
    return any(
        (device / "vendor").read_text().strip() == _NVIDIA
        and (device / "class").read_text().startswith(_DISPLAY)
        for device in (pci.iterdir() if pci.is_dir() else ())
    )


def list_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs the driver reports; empty without driver or GPU."""
    return _query([])


def find_gpu(index: int) -> Gpu | None:
    """Return the GPU that CUDA calls `index` in this process, or None if the driver is silent."""
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
        return ()  # the driver is broken: the CUDA provider will say how


def _parse(line: str) -> Gpu:
    name, free, total = (part.strip() for part in line.rsplit(",", 2))
    return Gpu(name=name, free_mb=int(free), total_mb=int(total))
