"""The devices of a run: a single one, or several with Lightning Fabric.

Fabric starts the other processes, averages gradients and supports clusters. It takes 15 MB with its
dependencies and a second to import, so a run on one device does not use it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from varfix.engine.errors import ConfigError, DeviceUnavailableError


class Hardware(Protocol):
    """Properties of the machine for the training loop.

    Attributes:
        device: Device of this process.
        rank: Number of this process; process 0 writes the files.
        count: Number of processes, each with batches of its own.
    """

    device: torch.device
    rank: int
    count: int

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Return a module whose call and `backward` compute the gradients of all processes."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        ...

    def wait(self) -> None:
        """Wait for all processes."""
        ...


class SingleDevice:
    """A GPU if one is present, else the CPU."""

    rank, count = 0, 1

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Return the objective itself."""
        return objective

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        loss.backward()

    def wait(self) -> None:
        """Do nothing: there is no other process."""


class FabricDevices:
    """Several devices of this machine, or of a cluster, with a process each."""

    def __init__(self, devices: int) -> None:
        """Start the other processes, which run the same command from its beginning.

        Raises:
            ConfigError: Lightning Fabric is not installed.
            DeviceUnavailableError: Not enough devices are present.
        """
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            raise ConfigError(
                "training on several devices requires lightning-fabric, which is not installed",
                hint='run: pip install "varfix[fabric]"',
            ) from error
        found = torch.cuda.device_count()
        if 0 < found < devices:
            raise DeviceUnavailableError(f"--devices {devices}: only {found} available")
        # A stage trains parts of a network, and not every part in every step.
        self._fabric: Any = Fabric(
            accelerator="cuda" if found else "cpu",
            devices=devices,
            strategy="ddp_find_unused_parameters_true",
        )
        self._fabric.launch()
        self.device: torch.device = self._fabric.device
        self.rank: int = self._fabric.global_rank
        self.count: int = self._fabric.world_size

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Return the objective, whose gradients are averaged over the devices."""
        module: nn.Module = self._fabric.setup_module(objective)
        return module

    def backward(self, loss: Tensor) -> None:
        """Compute gradients and average them."""
        self._fabric.backward(loss)

    def wait(self) -> None:
        """Wait for the other devices."""
        self._fabric.barrier()


def hardware(devices: int | None) -> Hardware:
    """Return the hardware of a run.

    Args:
        devices: Number of GPUs, or without a GPU, of processes on the CPU; None = all GPUs.
    """
    wanted = devices or max(1, torch.cuda.device_count())
    return SingleDevice() if wanted == 1 else FabricDevices(wanted)


@cache
def has_fast_bf16(device: torch.device) -> bool:
    """Return whether bf16 is fast: on a CPU only with instructions for it.

    Otherwise it is emulated (measured on Zen 3: 50 times as slow as single precision).
    """
    if device.type != "cpu":
        return True
    flags = Path("/proc/cpuinfo")
    known = flags.read_text(encoding="utf-8") if flags.exists() else ""
    return "avx512_bf16" in known or "amx_bf16" in known
