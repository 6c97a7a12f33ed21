"""What ONNX Runtime is told about a device: the options of its providers."""

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

_MOST_TILES: Final = 32  # for which a TensorRT engine is built; 8 is what it is tuned for
_USUAL_TILES: Final = 8


@dataclass(frozen=True)
class Device:
    """One compute device: a key of `PROVIDERS` and the number of the GPU, if it is one."""

    kind: str
    index: int = 0

    @property
    def name(self) -> str:
        """The device as people and events call it, for example `cuda:0`."""
        return f"{self.kind}:{self.index}" if self.kind in ("cuda", "tensorrt") else self.kind

    @property
    def provider(self) -> str:
        """ONNX Runtime's name for it."""
        return PROVIDERS[self.kind]


CPU: Final = Device("cpu")


@dataclass(frozen=True)
class SessionPlan:
    """What a session should be.

    Attributes:
        device: Where it runs.
        dims: Symbolic dimensions of the graph to pin, by name.
        precision: `fp16` only matters to providers that convert by themselves (TensorRT).
        optimize: False only looks at the graph.
        shapes: Inputs whose first dimension, the batch, is free, by name: their other dimensions.
            Only TensorRT needs to know them beforehand.
        recorded: CUDA records its kernels and replays them; see `cuda_graphs.py`.
    """

    device: Device
    dims: Mapping[str, int] = field(default_factory=dict)
    precision: Literal["fp32", "fp16"] = "fp32"
    optimize: bool = True
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    recorded: bool = False


def provider_list(plan: SessionPlan, checksum: str, version: str) -> list[Any]:
    """Return what `InferenceSession` takes as `providers`: the device's own first, the CPU last.

    Args:
        plan: What the session should be.
        checksum: Of the graph.
        version: Of ONNX Runtime.
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
        # Tiles are static: the arena needs no room to grow, and other programs want the memory.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }


def _tensorrt(plan: SessionPlan, checksum: str, version: str) -> dict[str, str]:
    """Engines take minutes to build, and fit one graph, shape, precision, runtime and GPU only."""
    options = {
        "device_id": str(plan.device.index),
        "trt_fp16_enable": str(plan.precision == "fp16"),
        **_engine_cache(engine_key(plan, checksum, version)),
    }
    # Without a range of batches an engine is built anew whenever a larger one comes.
    for key, batch in (("min", 1), ("opt", _USUAL_TILES), ("max", _MOST_TILES)):
        shapes = (
            f"{name}:{'x'.join(map(str, (batch, *rest)))}" for name, rest in plan.shapes.items()
        )
        if plan.shapes:
            options[f"trt_profile_{key}_shapes"] = ",".join(shapes)
    return options


def _engine_cache(key: str) -> dict[str, str]:
    """Where engines are kept; nothing where that cannot be written, and they are built each time.

    TensorRT makes a folder, but not the ones above it, and does not start without.
    """
    engines = tensorrt_folder() / key
    try:
        engines.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {}
    return {
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(engines),
        # How fast each layer's kernels are is true of every graph: the second engine builds faster.
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(engines.parent),
    }


def tensorrt_folder() -> Path:
    """Return the folder of the engines that TensorRT has built."""
    return cache_folder() / "tensorrt"


def engine_key(plan: SessionPlan, checksum: str, version: str) -> str:
    """Return a name for the engines of a graph: what fits nothing else must be found by nothing."""
    gpu = find_gpu(plan.device.index)
    facts = [checksum, version, plan.precision, gpu.name if gpu else "unknown"]
    facts += [f"{name}={size}" for name, size in sorted(plan.dims.items())]
    facts += [f"{name}={shape}" for name, shape in sorted(plan.shapes.items())]
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]
