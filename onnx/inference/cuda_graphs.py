"""A CUDA session that records its kernels once per shape and replays them (CUDA graphs).

A replay uses the same addresses. So every shape has its own buffers on the GPU, to which inputs and
from which results are copied. It is enabled by `VARFIX_CUDA_GRAPHS=1` only, because its gain has
not been measured.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

VARIABLE: Final = "VARFIX_CUDA_GRAPHS"
"""Environment variable that enables recording."""

MOST: Final = 4
"""Most shapes to record: full batches and remainders. Each takes memory."""

_NUMBER: Final = "gpu_graph_id"  # ONNX Runtime's; -1 records nothing
_UNRECORDED: Final = -1

Key = tuple[tuple[str, ...], tuple[tuple[str, tuple[int, ...]], ...]]


def wants_recording() -> bool:
    """Return whether CUDA graphs are enabled."""
    return os.environ.get(VARIABLE, "0").strip() not in ("", "0")


@dataclass(frozen=True)
class Buffers:
    """Buffers of one shape.

    Attributes:
        binding: Binds the buffers to the session.
        inputs: Buffers on the device, by name.
        outputs: Buffers on the device, in the requested order.
        options: Run options with the number of the recording.
    """

    binding: Any
    inputs: Mapping[str, Any]
    outputs: tuple[Any, ...]
    options: Any


class CudaGraphSession:
    """Runs as `onnxruntime.InferenceSession.run`, with fixed buffers.

    The first run of a shape is not recorded: it determines the sizes of the results.
    """

    def __init__(self, session: Any, runtime: Any, memory: str, index: int) -> None:
        """Wrap a session that was started with CUDA graphs.

        Args:
            session: The `InferenceSession`.
            runtime: The module `onnxruntime`.
            memory: Device of the buffers: `cuda`, or `cpu`, which records nothing.
            index: Index of the GPU.
        """
        self._session, self._runtime = session, runtime
        self._memory, self._index = memory, index
        self._buffers: dict[Key, Buffers] = {}

    def run(self, output_names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[Any]:
        """Return the named outputs for the named inputs."""
        shapes = ((name, value.shape) for name, value in feeds.items())
        key = (tuple(output_names), tuple(sorted(shapes)))
        known = self._buffers.get(key)
        if known is not None:
            return self._run_in(known, feeds)
        results: list[Any] = self._session.run(
            list(output_names), dict(feeds), self._options(_UNRECORDED)
        )
        if len(self._buffers) < MOST:
            self._buffers[key] = self._bound(output_names, feeds, results)
        return results

    def get_inputs(self) -> Sequence[Any]:
        """Return nodes with name, type and shape."""
        nodes: Sequence[Any] = self._session.get_inputs()
        return nodes

    def get_outputs(self) -> Sequence[Any]:
        """Return nodes with name, type and shape."""
        nodes: Sequence[Any] = self._session.get_outputs()
        return nodes

    def get_providers(self) -> Sequence[str]:
        """Return the providers in use, the main one first."""
        names: Sequence[str] = self._session.get_providers()
        return names

    def _run_in(self, buffers: Buffers, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        for name, value in feeds.items():
            buffers.inputs[name].update_inplace(np.ascontiguousarray(value))
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        # Copies, because the next run overwrites the buffers.
        return [np.array(value.numpy()) for value in buffers.outputs]

    def _bound(
        self, names: Sequence[str], feeds: Mapping[str, np.ndarray], results: Sequence[Any]
    ) -> Buffers:
        """Allocate and bind the buffers of a shape."""
        value, place = self._runtime.OrtValue, (self._memory, self._index)
        binding = self._session.io_binding()
        inputs = {
            name: value.ortvalue_from_numpy(np.ascontiguousarray(array), *place)
            for name, array in feeds.items()
        }
        outputs = tuple(
            value.ortvalue_from_shape_and_type(list(result.shape), result.dtype.type, *place)
            for result in results
        )
        for name, buffer in inputs.items():
            binding.bind_ortvalue_input(name, buffer)
        for name, buffer in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, buffer)
        return Buffers(binding, inputs, outputs, self._options(len(self._buffers) + 1))

    def _options(self, number: int) -> Any:
        options = self._runtime.RunOptions()
        options.add_run_config_entry(_NUMBER, str(number))
        return options
