"""Holds an exported graph against the network it came from."""

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


# fp32: far below half of an 8-bit step (0.002), room for another order of summation.
# fp16: one 8-bit step on average shows as banding, so a quarter of it; single pixels may stray.
TOLERANCES: Final = {"float32": Tolerance(1e-3, 2e-5), "float16": Tolerance(2e-2, 1e-3)}


@dataclass(frozen=True)
class Parity:
    """How far two arrays are apart, and whether that is near enough."""

    largest: float
    mean: float
    tolerance: Tolerance

    @property
    def ok(self) -> bool:
        """Whether both differences are allowed; NaN never is."""
        return self.largest <= self.tolerance.largest and self.mean <= self.tolerance.mean

    def __str__(self) -> str:
        return (
            f"differs by {self.mean:.2g} on average and {self.largest:.2g} at most "
            f"(allowed {self.tolerance.mean:.2g} and {self.tolerance.largest:.2g})"
        )


def compare(actual: np.ndarray, expected: np.ndarray, dtype: str = "float32") -> Parity:
    """Return how far `actual` is from `expected`, relative to max(1, largest |expected|).

    Args:
        actual: Any shape, float.
        expected: The same shape.
        dtype: Precision that computed `actual`, a key of `TOLERANCES`.

    Raises:
        ValueError: The shapes differ, or there is nothing to compare.
    """
    if actual.shape != expected.shape or not expected.size:
        raise ValueError(f"cannot compare shapes {actual.shape} and {expected.shape}")
    wanted = expected.astype(np.float64)
    difference = np.abs(actual.astype(np.float64) - wanted) / max(1.0, float(np.abs(wanted).max()))
    return Parity(float(difference.max()), float(difference.mean()), TOLERANCES[dtype])


def check_against(
    reference: Callable[[Feeds], np.ndarray],
    path: Path,
    feeds: Feeds,
    dtype: str = "float32",
) -> Parity:
    """Run the graph at `path` on the CPU and compare its only output with the reference's.

    Args:
        reference: Computes the expected output from the same feeds.
        path: An ONNX file with one output.
        feeds: Input name to array; the file is opened as it is, no dimension pinned.
        dtype: Precision of the graph's arithmetic, a key of `TOLERANCES`.

    Raises:
        ModelContractError: The graph does not run, gives another shape, or is too far off.
    """
    session = start(path, SessionPlan(CPU))
    (output,) = session.get_outputs()
    actual = np.asarray(session.run([output.name], dict(feeds))[0])
    expected = reference(feeds)
    if actual.shape != expected.shape:
        raise ModelContractError(
            f"{path.name}: gives {actual.shape}, the network {expected.shape}."
        )
    parity = compare(actual, expected, dtype)
    if not parity.ok:
        raise ModelContractError(f"{path.name}: {parity}, measured against the network.")
    return parity
