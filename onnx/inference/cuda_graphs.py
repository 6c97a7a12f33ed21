"""A CUDA session whose kernels are recorded once for each shape and then replayed (CUDA graphs).

What is replayed reads and writes the addresses that it read and wrote before. So every shape has
buffers of its own on the GPU, bound once; images are copied into them and results out of them.
Asked for by `VARFIX_CUDA_GRAPHS=1` only: nobody has measured yet what it gains on which GPU.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

VARIABLE: Final = "VARFIX_CUDA_GRAPHS"
"""Environment variable that asks for recording."""

MOST: Final = 4
"""Shapes that are recorded: full batches, and the rest of an image or two. Each takes memory."""

_NUMBER: Final = "gpu_graph_id"  # ONNX Runtime's; -1 records nothing
_UNRECORDED: Final = -1

Key = tuple[tuple[str, ...], tuple[tuple[str, tuple[int, ...]], ...]]


def wants_recording() -> bool:
    """Tell whether the user asked for CUDA graphs."""
    return os.environ.get(VARIABLE, "0").strip() not in ("", "0")


@dataclass(frozen=True)
class Buffers:
    """What one shape is computed in.

    Attributes:
        binding: of the buffers to the session.
        inputs: on the device, by name.
        outputs: on the device, in the order asked for.
        options: of the runs, with the number of the recording.
    """

    binding: Any
    inputs: Mapping[str, Any]
    outputs: tuple[Any, ...]
    options: Any


class CapturedSession:
    """Runs as `onnxruntime.InferenceSession.run` does, on buffers that stay where they are.

    The first run of a shape is not recorded: it tells how large the results are.
    """

    def __init__(self, session: Any, runtime: Any, memory: str, index: int) -> None:
        """Wrap a session that was started with CUDA graphs.

        Args:
            session: the `InferenceSession`.
            runtime: the module `onnxruntime`.
            memory: where buffers lie, `cuda`; `cpu` behaves alike and records nothing.
            index: number of the GPU.
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
        """Return the providers that really take part, the main one first."""
        names: Sequence[str] = self._session.get_providers()
        return names

    def _run_in(self, buffers: Buffers, feeds: Mapping[str, np.ndarray]) -> list[Any]:
        for name, value in feeds.items():
            buffers.inputs[name].update_inplace(np.ascontiguousarray(value))
        self._session.run_with_iobinding(buffers.binding, buffers.options)
        # Copies: what lies in the buffers belongs to the next run.
        return [np.array(value.numpy()) for value in buffers.outputs]

    def _bound(
        self, names: Sequence[str], feeds: Mapping[str, np.ndarray], results: Sequence[Any]
    ) -> Buffers:
        """Make the buffers of a shape, and bind them."""
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
        for name, one in inputs.items():
            binding.bind_ortvalue_input(name, one)
        for name, one in zip(names, outputs, strict=True):
            binding.bind_ortvalue_output(name, one)
        return Buffers(binding, inputs, outputs, self._options(len(self._buffers) + 1))

    def _options(self, number: int) -> Any:
        options = self._runtime.RunOptions()
        options.add_run_config_entry(_NUMBER, str(number))
        return options
