"""ONNX Runtime behind one door: loaded late, kept quiet, and believed only after a look.

`get_available_providers` names what was compiled in, not what works; a session that cannot have
its provider silently takes the CPU. So a session counts as started only when the provider asked for
is the first one it reports.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
import platformdirs

from varfix.engine.errors import DeviceUnavailableError, ModelContractError
from varfix.engine.models import PREFIX
from varfix.onnx.card import read_metadata
from varfix.onnx.cores import usable_cores

PROVIDERS: Final = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "directml": "DmlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
# Every distribution that installs the module `onnxruntime`; two at a time overwrite each other.
PACKAGES: Final = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
)
_BROKEN_FILE: Final = frozenset({"InvalidProtobuf", "InvalidGraph", "NoModel"})
_UNROLLED: Final = f"{PREFIX}unrolled"
_FATAL: Final = 4  # ONNX Runtime's severity; below it, it writes its own lines to stderr


class StartError(Exception):
    """The provider did not start; the text is the reason, for the middle of a sentence."""


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` that varfix uses."""

    def run(self, output_names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[Any]:
        """Return the named outputs for the named inputs."""
        ...

    def get_inputs(self) -> Sequence[Any]:
        """Return nodes with name, type and shape."""
        ...

    def get_outputs(self) -> Sequence[Any]:
        """Return nodes with name, type and shape."""
        ...

    def get_providers(self) -> Sequence[str]:
        """Return the providers that really take part, the main one first."""
        ...


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
    """

    device: Device
    dims: Mapping[str, int] = field(default_factory=dict)
    precision: Literal["fp32", "fp16"] = "fp32"
    optimize: bool = True


def load_runtime() -> Any:
    """Import ONNX Runtime and return the module.

    Raises:
        DeviceUnavailableError: It is not installed or does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceUnavailableError(
            f"ONNX Runtime does not load: {error}.", hint="Reinstall varfix."
        ) from error
    # Its complaints about providers that varfix reports itself, in colour, on stderr.
    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def compiled_providers() -> tuple[str, ...]:
    """Return the providers that the installed package contains, working or not."""
    return tuple(load_runtime().get_available_providers())


def installed_packages() -> tuple[str, ...]:
    """Return the installed distributions of ONNX Runtime, each as `name version`."""
    found = []
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{name} {metadata.version(name)}")
    return tuple(found)


def start(model: Path | bytes, plan: SessionPlan) -> Session:
    """Start a session on exactly `plan.device`.

    Raises:
        StartError: The provider does not start, or would have left the work to another.
        ModelContractError: The graph is broken, or ONNX Runtime cannot run it.
    """
    runtime = load_runtime()
    missing = _preload(runtime) if plan.device.kind in ("cuda", "tensorrt") else ""
    source = model if isinstance(model, bytes) else str(model)
    unrolled = isinstance(model, Path) and read_metadata(model).get(_UNROLLED) == "True"
    try:
        with warnings.catch_warnings(action="ignore"):
            session: Session = runtime.InferenceSession(
                source,
                _options(runtime, plan, unrolled),
                providers=_providers(plan),
                enable_fallback=0,  # its own fall back prints to stdout and changes the provider
            )
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        if plan.device == CPU or type(error).__name__ in _BROKEN_FILE:
            raise _refused(model, error) from error
        raise StartError(missing or _first_line(error)) from error
    if session.get_providers()[0] != plan.device.provider:
        raise StartError(missing or "its libraries or the driver do not load")
    return session


def _refused(model: Path | bytes, error: Exception) -> ModelContractError:
    name = model.name if isinstance(model, Path) else "graph"
    return ModelContractError(
        f"{name}: ONNX Runtime cannot run it: {_first_line(error)}.",
        hint="Export with varfix export-onnx.",
    )


def _first_line(error: Exception) -> str:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).strip()
    return (text.splitlines() or [type(error).__name__])[0].rstrip(". ")


def _options(runtime: Any, plan: SessionPlan, unrolled: bool) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    # Waiting threads that spin take the cores of decoding and encoding, and of other programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if unrolled:  # every repetition would lay out its own copy of the same weights
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not plan.optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, size in plan.dims.items():
        options.add_free_dimension_override_by_name(name, size)
    return options


def _providers(plan: SessionPlan) -> list[Any]:
    device = plan.device
    cuda = {
        "device_id": str(device.index),
        # Tiles are static: the arena needs no room to grow, and other programs want the memory.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    tensorrt = {
        "device_id": str(device.index),
        "trt_fp16_enable": str(plan.precision == "fp16"),
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(
            platformdirs.user_cache_path("varfix", appauthor=False) / "tensorrt"
        ),
    }
    lists: dict[str, list[Any]] = {
        "cpu": [],
        "cuda": [(PROVIDERS["cuda"], cuda)],
        "tensorrt": [(PROVIDERS["tensorrt"], tensorrt), (PROVIDERS["cuda"], cuda)],
    }
    return [*lists.get(device.kind, [device.provider]), PROVIDERS["cpu"]]


def _preload(runtime: Any) -> str:
    """Load CUDA and cuDNN from the installed wheels; return what was not found, or nothing.

    ONNX Runtime prints the outcome: stdout is data, so it is caught, and it holds the only reason.
    """
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runtime.preload_dlls()
    missing = re.search(r"Failed to load (\S+?):", said.getvalue())
    return f"{Path(missing[1]).name} not found" if missing else ""
