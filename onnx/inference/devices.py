"""Selects the device of a run, and tests which devices work.

`auto` takes the first CUDA device that starts, else the CPU, with a warning if the machine has a
GPU. A named device is used, or it is an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import msgspec
import numpy as np

from varfix.engine.errors import ConfigError, DeviceUnavailableError, ModelContractError
from varfix.onnx.inference.hardware import Gpu, gpu_visible, list_gpus, usable_cores
from varfix.onnx.inference.runtime import (
    CPU,
    PROVIDERS,
    Device,
    Session,
    SessionPlan,
    StartError,
    compiled_providers,
    installed_packages,
    runtime_version,
    start,
)

_LABELS: Final = {"cuda": "CUDA", "tensorrt": "TensorRT", "cpu": "CPU"}
_NUMBERED: Final = ("cuda", "tensorrt")

# y = x + x on two floats, as an ONNX file: tests that a provider starts and computes.
_PROBE: Final = (
    b'\x08\x07:5\n\x0e\n\x01x\n\x01x\x12\x01y"\x03Add\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12'
    b"\x04\n\x02\x08\x02b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x02B\x04\n\x00\x10\r"
)

Plans = Callable[[Device], SessionPlan]
"""Returns the plan of a session on a device."""

Warn = Callable[[str, str], None]
"""Called with a stable code and a message for people."""


@dataclass(frozen=True)
class DeviceRequest:
    """A parsed value of `--device`.

    Attributes:
        text: The request as written, for messages.
        device: The device named, the first of several, or None for `auto`.
        others: The other devices named.
    """

    text: str
    device: Device | None
    others: tuple[Device, ...] = ()

    def each(self) -> list[DeviceRequest]:
        """Return one request for each device."""
        if not self.others or self.device is None:
            return [self]
        return [DeviceRequest(self.text, device) for device in (self.device, *self.others)]


def parse_device(text: str) -> DeviceRequest:
    """Read `auto`, `cpu`, `cuda`, `cuda:1`, `cuda:0,1`, or another provider's name.

    Raises:
        ConfigError: The device is unknown, or it is named twice.
    """
    if text == "auto":
        return DeviceRequest(text, None)
    kind, colon, number = text.partition(":")
    if kind not in PROVIDERS:
        raise ConfigError(f'--device "{text}": unknown device', hint=_known(kind))
    if re.fullmatch(r"\d+(,\d+)+", number) and kind in _NUMBERED:
        first, *others = (Device(kind, int(index)) for index in number.split(","))
        if len({first, *others}) <= len(others):
            raise ConfigError(f'--device "{text}": a GPU is named twice')
        return DeviceRequest(text, first, tuple(others))
    if colon and (kind not in _NUMBERED or not re.fullmatch(r"\d+", number)):
        raise ConfigError(f'--device "{text}": expected a form like cpu, cuda or cuda:1')
    return DeviceRequest(text, Device(kind, int(number or 0)))


def _known(kind: str) -> str:
    names = ["auto", *PROVIDERS]
    near = difflib.get_close_matches({"gpu": "cuda", "trt": "tensorrt"}.get(kind, kind), names, n=1)
    return f'did you mean "{near[0]}"?' if near else f"use one of {', '.join(names)}"


def start_requested(
    model: Path, request: DeviceRequest, plans: Plans, warn: Warn
) -> tuple[Session, Device]:
    """Start `model` in fp32 on the requested device.

    Args:
        model: The graph file.
        request: Result of `parse_device`.
        plans: Returns the plan of a session on a device.
        warn: Called once, with code `device_fallback`, if `auto` cannot use an existing GPU.

    Returns:
        The session and its device.

    Raises:
        DeviceUnavailableError: The named device does not start.
        ModelContractError: The graph is invalid.
    """
    if request.device is not None:
        return start_named(model, request, plans(request.device)), request.device
    device = Device("cuda")
    if gpu_visible():
        try:
            _require_compiled(device)
            return start(model, plans(device)), device
        except StartError as error:
            warn("device_fallback", f"CUDA is not available ({error}); using CPU")
    return start(model, plans(CPU)), CPU


def start_named(model: Path, request: DeviceRequest, plan: SessionPlan) -> Session:
    """Start `model` on `plan.device`, or raise DeviceUnavailableError for the request."""
    try:
        _require_compiled(plan.device)
        return start(model, plan)
    except StartError as error:
        _raise_unavailable(request, plan.device, str(error))


def _require_compiled(device: Device) -> None:
    if device.provider not in compiled_providers():
        packages = ", ".join(installed_packages())
        raise StartError(f"the installed {packages or 'ONNX Runtime'} does not contain it")


def _raise_unavailable(request: DeviceRequest, device: Device, reason: str) -> NoReturn:
    label = _LABELS.get(device.kind, device.kind)
    compiled = device.provider in compiled_providers()
    if compiled and device.kind in _NUMBERED and not gpu_visible():
        reason = "no NVIDIA GPU is visible"
    what = f"no working {label} provider" if compiled else f"no {label} provider"
    why = f" ({reason})" if compiled else ""
    raise DeviceUnavailableError(
        f"--device {request.text}: ONNX Runtime has {what} here{why}; "
        f"installed: {_installed(compiled)}",
        hint=f"{_fix(device, compiled)}, or see varfix doctor",
    )


def _installed(compiled: bool) -> str:
    packages = ", ".join(installed_packages()) or f"onnxruntime {runtime_version()}"
    return packages if compiled else f"{packages} (CPU)"


def _fix(device: Device, compiled: bool) -> str:
    names = " ".join(package.partition(" ")[0] for package in installed_packages())
    if device.kind not in _NUMBERED:
        return f"install the ONNX Runtime package with {device.provider} in place of {names}"
    if not compiled:
        return f'run: pip uninstall -y {names or "onnxruntime"} && pip install "varfix[cuda]"'
    if not gpu_visible():
        return "install the NVIDIA driver, or use --device cpu"
    if device.kind == "tensorrt":
        return "install TensorRT, or use --device cuda"
    return 'run: pip install "varfix[cuda]"'


def package_conflict() -> str:
    """Return which ONNX Runtime packages overwrite each other and the fix, or an empty text."""
    packages = installed_packages()
    if len(packages) < 2:
        return ""
    names = [package.partition(" ")[0] for package in packages]
    wanted = "onnxruntime-gpu" if "onnxruntime-gpu" in names else names[-1]
    return (
        f"{' and '.join(names)} overwrite each other, which can disable the GPU; "
        f"run: pip uninstall -y {' '.join(names)} && pip install {wanted}"
    )


class ProviderStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a compiled provider works; `detail` holds the reason if not."""

    device: str
    provider: str
    works: bool
    detail: str = ""


class DeviceCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Devices and packages of this machine, for `varfix doctor`.

    Attributes:
        runtime: Version of ONNX Runtime.
        packages: Installed distributions, each as `name version`.
        conflict: How to fix conflicting packages; empty if there are none.
        cores: Physical cores that varfix uses.
        gpus: GPUs that the NVIDIA driver reports.
        providers: Results for every compiled provider that varfix supports.
        auto: The device that `--device auto` takes.
    """

    runtime: str
    packages: tuple[str, ...]
    conflict: str
    cores: int
    gpus: tuple[Gpu, ...]
    providers: tuple[ProviderStatus, ...]
    auto: str


def check_devices() -> DeviceCheck:
    """Test every provider with a small computation.

    Raises:
        DeviceUnavailableError: ONNX Runtime itself does not load.
    """
    compiled = compiled_providers()
    tried = tuple(_try(Device(kind)) for kind, name in PROVIDERS.items() if name in compiled)
    usable = any(status.works and status.provider == PROVIDERS["cuda"] for status in tried)
    return DeviceCheck(
        runtime=runtime_version(),
        packages=installed_packages(),
        conflict=package_conflict(),
        cores=usable_cores(),
        gpus=list_gpus(),
        providers=tried,
        auto=Device("cuda").name if usable and gpu_visible() else CPU.name,
    )


def _try(device: Device) -> ProviderStatus:
    detail = ""
    try:
        if device.kind in _NUMBERED and not gpu_visible():
            raise StartError("no NVIDIA GPU is visible")
        session = start(_PROBE, SessionPlan(device))
        (doubled,) = session.run(["y"], {"x": np.array([1.5, -2.0], np.float32)})
        if not np.array_equal(doubled, [3.0, -4.0]):
            detail = "it computes 1.5 + 1.5 incorrectly"
    except (StartError, ModelContractError) as error:
        detail = str(error)
    except Exception as error:  # an error of one provider must not stop the test of the next
        detail = (str(error).splitlines() or [type(error).__name__])[0]
    return ProviderStatus(
        device=device.name, provider=device.provider, works=not detail, detail=detail
    )
