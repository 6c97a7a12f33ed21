"""Probes: functions that receive named intermediate results of a network.

A probe is passed as an argument, so that no state remains on a module.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Probe = Callable[[str, Tensor], None]
"""Receives the name of an intermediate result and the result itself."""


def no_probe(name: str, value: Tensor) -> None:
    """Ignore a result."""


def prefixed(probe: Probe, prefix: str) -> Probe:
    """Return a probe that receives names with a prefix."""
    return lambda name, value: probe(prefix + name, value)


def suffixed(probe: Probe, suffix: str) -> Probe:
    """Return a probe that receives names with a suffix."""
    return lambda name, value: probe(name + suffix, value)
