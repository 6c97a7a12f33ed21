"""Where a run computes: one device by itself, or several through Lightning Fabric.

Fabric starts the other processes, sums gradients and knows clusters; it costs 15 MB with what it
needs and a second to import, so a run on one device goes without it.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from varfix.engine.errors import ConfigError, DeviceUnavailableError


class Hardware(Protocol):
    """What the loop needs to know of the machine.

    Attributes:
        device: of this process.
        rank: number of this process; 0 writes the files.
        count: how many processes train together, each on batches of its own.
    """

    device: torch.device
    rank: int
    count: int

    def ready(self, objective: nn.Module) -> nn.Module:
        """The module whose call, followed by `backward`, gives the gradients of all processes."""
        ...

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        ...

    def wait(self) -> None:
        """Wait until every process is here."""
        ...


class OneDevice:
    """A GPU if there is one, else the CPU."""

    rank, count = 0, 1

    def __init__(self) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def ready(self, objective: nn.Module) -> nn.Module:
        """The objective itself."""
        return objective

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        loss.backward()

    def wait(self) -> None:
        """There is nobody to wait for."""


class FabricDevices:
    """Several devices of this machine, one process each, or one of a cluster that Fabric knows."""

    def __init__(self, devices: int) -> None:
        """Start the other processes: they run the same command from its beginning to here.

        Raises:
            ConfigError: Lightning Fabric is not installed.
            DeviceUnavailableError: There are fewer devices.
        """
        try:
            from lightning_fabric import Fabric
        except ImportError as error:
            raise ConfigError(
                "training on several devices needs lightning-fabric, which is not installed",
                hint='run: pip install "varfix[fabric]"',
            ) from error
        found = torch.cuda.device_count()
        if 0 < found < devices:
            raise DeviceUnavailableError(f"--devices {devices}: there are {found}")
        # Stages train parts of a network, and some of these only in some steps.
        self._fabric: Any = Fabric(
            accelerator="cuda" if found else "cpu",
            devices=devices,
            strategy="ddp_find_unused_parameters_true",
        )
        self._fabric.launch()
        self.device: torch.device = self._fabric.device
        self.rank: int = self._fabric.global_rank
        self.count: int = self._fabric.world_size

    def ready(self, objective: nn.Module) -> nn.Module:
        """The objective, its gradients averaged over the devices."""
        module: nn.Module = self._fabric.setup_module(objective)
        return module

    def backward(self, loss: Tensor) -> None:
        """Compute gradients and average them."""
        self._fabric.backward(loss)

    def wait(self) -> None:
        """Wait for the other devices."""
        self._fabric.barrier()


def hardware(devices: int | None) -> Hardware:
    """The hardware of a run.

    Args:
        devices: how many GPUs (or, without any, processes on the CPU); None for every GPU.
    """
    wanted = devices or max(1, torch.cuda.device_count())
    return OneDevice() if wanted == 1 else FabricDevices(wanted)


@cache
def fast_half(device: torch.device) -> bool:
    """Whether bf16 is worth computing in: on a CPU only with instructions for it.

    Without them it is emulated (measured on Zen 3: 50 times slower than single precision).
    """
    if device.type != "cpu":
        return True
    flags = Path("/proc/cpuinfo")
    known = flags.read_text(encoding="utf-8") if flags.exists() else ""
    return "avx512_bf16" in known or "amx_bf16" in known
