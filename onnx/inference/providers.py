"""Devices, and the options of their ONNX Runtime providers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from varfix.engine.system.app_folders import cache_folder
from varfix.onnx.inference.hardware import find_gpu

PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}

_MOST_TILES: Final = 32  # largest batch of a TensorRT engine, which is tuned for 8
_USUAL_TILES: Final = 8


@dataclass(frozen=True)
class Device:
    """A compute device: a key of `PROVIDERS`, and the index of a GPU."""

    kind: str
    index: int = 0

    @property
    def name(self) -> str:
        """Name of the device in messages and events, for example `cuda:0`."""
        return f"{self.kind}:{self.index}" if self.kind in ("cuda", "tensorrt") else self.kind

    @property
    def provider(self) -> str:
        """Name of the provider in ONNX Runtime."""
        return PROVIDERS[self.kind]


CPU: Final = Device("cpu")


@dataclass(frozen=True)
class SessionPlan:
    """Parameters of a session.

    Attributes:
        device: Device that runs the graph.
        dims: Symbolic dimensions of the graph to pin, by name.
        precision: Only for providers that convert graphs themselves (TensorRT).
        optimize: False disables optimizations, for reading inputs and outputs.
        shapes: Shapes of the inputs without the batch, by name; required by TensorRT.
        recorded: Whether CUDA records kernels and replays them; see `cuda_graphs.py`.
        threads: Threads of the computation on a CPU; None = all usable cores.
    """

    device: Device
    dims: Mapping[str, int] = field(default_factory=dict)
    precision: Literal["fp32", "fp16"] = "fp32"
    optimize: bool = True
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    recorded: bool = False
    threads: int | None = None


def provider_list(plan: SessionPlan, checksum: str, version: str) -> list[Any]:
    """Return the argument `providers` of `InferenceSession`, with the CPU last.

    Args:
        plan: Parameters of the session.
        checksum: Digest of the graph.
        version: Version of ONNX Runtime.
    """
    device = plan.device
    if device.kind == "cuda":
        recording = {"enable_cuda_graph": "1"} if plan.recorded else {}
        return [(device.provider, _cuda(device) | recording), PROVIDERS["cpu"]]
    if device.kind == "tensorrt":
        tensorrt = (device.provider, _tensorrt(plan, checksum, version))
        return [tensorrt, (PROVIDERS["cuda"], _cuda(device)), PROVIDERS["cpu"]]
    return [device.provider] if device == CPU else [device.provider, PROVIDERS["cpu"]]


def _cuda(device: Device) -> dict[str, str]:
    return {
        "device_id": str(device.index),
        # Tile shapes are static, so the arena need not grow in large steps.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }


def _tensorrt(plan: SessionPlan, checksum: str, version: str) -> dict[str, str]:
    """Return the options of TensorRT, whose engines take minutes to build and are cached."""
    options = {
        "device_id": str(plan.device.index),
        "trt_fp16_enable": str(plan.precision == "fp16"),
        **_engine_cache(engine_key(plan, checksum, version)),
    }
    # Without a range of batches, each larger batch would build a new engine.
    for key, batch in (("min", 1), ("opt", _USUAL_TILES), ("max", _MOST_TILES)):
        shapes = (
            f"{name}:{'x'.join(map(str, (batch, *rest)))}" for name, rest in plan.shapes.items()
        )
        if plan.shapes:
            options[f"trt_profile_{key}_shapes"] = ",".join(shapes)
    return options


def _engine_cache(key: str) -> dict[str, str]:
    """Return the options of the engine cache; empty if its folder cannot be written.

    TensorRT does not create parent folders, and does not start without them.
    """
    engines = tensorrt_folder() / key
    try:
        engines.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {}
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engines),
        # Timings of kernels are valid for all graphs, so the second engine builds faster.
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(engines.parent),
    }


def tensorrt_folder() -> Path:
    """Return the folder of cached TensorRT engines."""
    return cache_folder() / "tensorrt"


def engine_key(plan: SessionPlan, checksum: str, version: str) -> str:
    """Return a folder name that is unique for graph, runtime, precision, GPU and shapes."""
    gpu = find_gpu(plan.device.index)
    parts = [checksum, version, plan.precision, gpu.name if gpu else "unknown"]
    parts += [f"{name}={size}" for name, size in sorted(plan.dims.items())]
    parts += [f"{name}={shape}" for name, shape in sorted(plan.shapes.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
