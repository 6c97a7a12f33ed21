"""Starts sessions of ONNX Runtime, which is imported late and kept quiet.

`get_available_providers` names the compiled providers, not the working ones, and a session that
cannot use its provider silently takes the CPU. So a session counts as started only if the requested
provider is the first one that it reports.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from varfix.engine.errors import ConfigError, DeviceUnavailableError, ModelContractError
from varfix.engine.models.card import PREFIX
from varfix.onnx.files.card import graph_digest, read_metadata
from varfix.onnx.inference.cuda_graphs import CudaGraphSession, wants_recording
from varfix.onnx.inference.graph_cache import GraphSource, start_cached
from varfix.onnx.inference.hardware import usable_cores
from varfix.onnx.inference.providers import CPU, PROVIDERS, Device, SessionPlan, provider_list

# Every distribution that installs the module `onnxruntime`; two of them overwrite each other.
PACKAGES: Final = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-directml",
    "onnxruntime-migraphx",
    "onnxruntime-openvino",
    "onnxruntime-rocm",
)
__all__ = [
    "CPU",
    "PACKAGES",
    "PROVIDERS",
    "Device",
    "Session",
    "SessionPlan",
    "StartError",
    "compiled_providers",
    "installed_packages",
    "load_runtime",
    "start",
]

_BROKEN_FILE: Final = frozenset({"InvalidProtobuf", "InvalidGraph", "NoModel"})
_UNROLLED: Final = f"{PREFIX}unrolled"
_FATAL: Final = 4  # ONNX Runtime's severity; below it, it writes its own lines to stderr


class StartError(Exception):
    """The provider did not start; the text is the reason."""


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
        """Return the providers in use, the main one first."""
        ...


def load_runtime() -> Any:
    """Import ONNX Runtime and return the module.

    Raises:
        DeviceUnavailableError: It is not installed or does not load.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceUnavailableError(
            f"ONNX Runtime does not load: {error}", hint="reinstall varfix"
        ) from error
    # It prints provider errors to stderr, which varfix reports itself.
    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def runtime_version() -> str:
    """Return the version of ONNX Runtime; raises as `load_runtime`."""
    return str(load_runtime().__version__)


def compiled_providers() -> tuple[str, ...]:
    """Return the providers of the installed package, whether or not they work."""
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
        StartError: The provider does not start, or another one would be used instead.
        ModelContractError: The graph is broken, or ONNX Runtime cannot run it.
        ConfigError: `VARFIX_THREADS` is not a positive integer.
    """
    if plan.device.kind == "cuda" and wants_recording():
        # Graphs that partly run on the CPU cannot be recorded; they run without recording.
        with contextlib.suppress(StartError):
            recording = _started(model, replace(plan, recorded=True))
            return CudaGraphSession(recording, load_runtime(), "cuda", plan.device.index)
    return _started(model, plan)


def _started(model: Path | bytes, plan: SessionPlan) -> Session:
    runtime = load_runtime()
    missing = _preload(runtime) if plan.device.kind in ("cuda", "tensorrt") else ""
    try:
        session = _begun(runtime, model, plan)
    except ConfigError:  # a wrong VARFIX_THREADS is no fault of the model or the device
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        if plan.device == CPU or type(error).__name__ in _BROKEN_FILE:
            raise _refused(model, error) from error
        raise StartError(missing or _first_line(error)) from error
    if session.get_providers()[0] != plan.device.provider:
        raise StartError(missing or "its libraries or the driver do not load")
    return session


def _begun(runtime: Any, model: Path | bytes, plan: SessionPlan) -> Session:
    """Start a session, from the cached optimized graph if there is one."""

    def begin(source: GraphSource | bytes) -> Session:
        graph = source if isinstance(source, bytes) else str(source.graph)
        # `catch_warnings` is not thread-safe; the CPU provider emits no warnings.
        with contextlib.nullcontext() if on_cpu else warnings.catch_warnings(action="ignore"):
            session: Session = runtime.InferenceSession(
                graph,
                _options(runtime, plan, unrolled, source),
                providers=provider_list(plan, checksum, runtime.__version__),
                enable_fallback=0,  # its fallback prints to stdout and changes the provider
            )
        return session

    on_cpu = plan.device == CPU
    engines = plan.device.kind == "tensorrt"
    checksum = graph_digest(model) if engines and isinstance(model, Path) else ""
    unrolled = isinstance(model, Path) and read_metadata(model).get(_UNROLLED) == "True"
    if isinstance(model, bytes):
        return begin(model)
    # Graphs optimized by other providers cannot always be saved.
    if unrolled or not on_cpu or not plan.optimize or not model.is_file():
        return begin(GraphSource(model))
    return start_cached(model, lambda: _cache_properties(runtime, model, plan), begin)


def _cache_properties(runtime: Any, model: Path, plan: SessionPlan) -> list[str]:
    """Return everything that an optimized graph depends on, except the processor."""
    sizes = [f"{name}={size}" for name, size in sorted(plan.dims.items())]
    return [runtime.__version__, runtime.get_build_info(), graph_digest(model), *sizes]


def _refused(model: Path | bytes, error: Exception) -> ModelContractError:
    name = model.name if isinstance(model, Path) else "graph"
    return ModelContractError(
        f"{name}: ONNX Runtime cannot run it ({_first_line(error)})",
        hint="export it with varfix export-onnx",
    )


def _first_line(error: Exception) -> str:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)).strip()
    return (text.splitlines() or [type(error).__name__])[0].rstrip(". ")


def _options(runtime: Any, plan: SessionPlan, unrolled: bool, source: GraphSource | bytes) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = min(plan.threads or usable_cores(), usable_cores())
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    # Spinning threads would slow down decoding, encoding and other programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if unrolled:  # prepacking would copy the weights for every repetition
        options.add_session_config_entry("session.disable_prepacking", "1")
    kept = isinstance(source, GraphSource) and source.optimized
    if isinstance(source, GraphSource) and source.keep is not None:
        options.optimized_model_filepath = str(source.keep)
    if kept or not plan.optimize:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, size in ({} if kept else plan.dims).items():
        options.add_free_dimension_override_by_name(name, size)
    return options


def _preload(runtime: Any) -> str:
    """Load CUDA and cuDNN from the installed wheels; return the missing library, or nothing.

    ONNX Runtime prints errors to stdout and reports them nowhere else.
    """
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        runtime.preload_dlls()
    missing = re.search(r"Failed to load (\S+?):", output.getvalue())
    return f"{Path(missing[1]).name} not found" if missing else ""
