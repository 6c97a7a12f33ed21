"""Compare an exported graph with the network it was exported from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from varfix.engine.errors import ModelContractError
from varfix.onnx.inference.runtime import CPU, SessionPlan, start

Arrays = np.ndarray
Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Tolerance:
    """Largest and mean absolute difference allowed, in units of the expected values' magnitude."""

    largest: float
    mean: float


# fp32: far below half of an 8-bit step (0.002), with room for another order of summation.
# fp16: an 8-bit step on average is visible as banding, so a quarter of it; single pixels may differ
# by more.
TOLERANCES: Final = {"float32": Tolerance(1e-3, 2e-5), "float16": Tolerance(2e-2, 1e-3)}


@dataclass(frozen=True)
class Parity:
    """Differences of two arrays, and the tolerance for them."""

    largest: float
    mean: float
    tolerance: Tolerance

    @property
    def ok(self) -> bool:
        """Whether both differences are allowed; NaN is not."""
        return self.largest <= self.tolerance.largest and self.mean <= self.tolerance.mean

    def __str__(self) -> str:
        return (
            f"differs by {self.mean:.2g} on average and {self.largest:.2g} at most "
            f"(allowed {self.tolerance.mean:.2g} and {self.tolerance.largest:.2g})"
        )


def compare(actual: np.ndarray, expected: np.ndarray, dtype: str = "float32") -> Parity:
    """Return the differences of `actual` and `expected`, relative to max(1, largest |expected|).

    Args:
        actual: Any shape, float.
        expected: The same shape.
        dtype: Precision that computed `actual`, a key of `TOLERANCES`.

    Raises:
        ValueError: The shapes differ, or the arrays are empty.
    """
    if actual.shape != expected.shape or not expected.size:
        raise ValueError(f"cannot compare shapes {actual.shape} and {expected.shape}")
    wanted = expected.astype(np.float64)
    difference = np.abs(actual.astype(np.float64) - wanted) / max(1.0, float(np.abs(wanted).max()))
    return Parity(float(difference.max()), float(difference.mean()), TOLERANCES[dtype])


def check_against(
    reference: Callable[[Feeds], np.ndarray | list[np.ndarray]],
    path: Path,
    feeds: Feeds,
    dtype: str = "float32",
) -> Parity:
    """Run the graph at `path` on the CPU and compare its outputs with the reference.

    Args:
        reference: Computes the expected output, or all of them in order, from the same feeds.
        path: An ONNX file.
        feeds: Input name to array; symbolic dimensions are not pinned.
        dtype: Precision of the graph's arithmetic, a key of `TOLERANCES`.

    Returns:
        The largest difference of all outputs.

    Raises:
        ModelContractError: The graph does not run, or its output has another shape or differs.
    """
    session = start(path, SessionPlan(CPU))
    names = [output.name for output in session.get_outputs()]
    computed = session.run(names, dict(feeds))
    wanted = reference(feeds)
    wanted = wanted if isinstance(wanted, list) else [wanted]
    pairs = zip(computed, wanted, strict=True)
    found = [_checked(path, np.asarray(actual), expected, dtype) for actual, expected in pairs]
    return max(found, key=lambda parity: parity.largest)


def _checked(path: Path, actual: np.ndarray, expected: np.ndarray, dtype: str) -> Parity:
    if actual.shape != expected.shape:
        raise ModelContractError(
            f"{path.name}: output of shape {actual.shape}, expected {expected.shape}"
        )
    parity = compare(actual, expected, dtype)
    if not parity.ok:
        raise ModelContractError(f"{path.name}: {parity}, compared with the network")
    return parity
